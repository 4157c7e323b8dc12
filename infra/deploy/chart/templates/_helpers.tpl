{{- define "retouch.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "retouch.selector" -}}
app.kubernetes.io/name: retouch
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "retouch.labels" -}}
{{ include "retouch.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* The image of a process, which is `.process`. */}}
{{- define "retouch.image" -}}
{{- $image := .root.Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ if .process.gpus }}-gpu{{ end }}
{{- end -}}
{{- end }}

{{/* A setting's value as the text of an environment variable: texts as they are, all else in JSON. */}}
{{- define "retouch.text" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end }}

{{/* Settings as `VARIABLE: "text"`, one a line. `domains` as one text: its keys are names, whose letter case matters. */}}
{{- define "retouch.variables" -}}
{{- range $section, $fields := . }}
{{- if and (kindIs "map" $fields) (ne $section "domains") }}
{{- range $field, $value := $fields }}
{{ printf "RETOUCH_%s__%s" (upper $section) (upper $field) }}: {{ include "retouch.text" $value | quote }}
{{- end }}
{{- else }}
{{ printf "RETOUCH_%s" (upper $section) }}: {{ include "retouch.text" $fields | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether an existing secret sets `.setting`. */}}
{{- define "retouch.hasSecret" -}}
{{- $setting := .setting -}}
{{- range .root.Values.secretFiles }}{{ if eq .setting $setting }}true{{ end }}{{ end -}}
{{- end }}

{{- define "retouch.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "retouch.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The entries of secretFiles that the process `.name`, `.known`, gets, as a YAML list below `files`. */}}
{{- define "retouch.secretFiles" -}}
files:
{{- $name := .name -}}
{{- $sections := append .known.secrets "kafka" -}}
{{- $found := dict -}}
{{- range .root.Values.secretFiles }}
{{- if and (has (splitList "." .setting | first) $sections) (or (not .processes) (has $name .processes)) }}
{{- if hasKey $found .setting }}
{{- fail (printf "secretFiles: two entries set %s of %s: name their processes, each in one" .setting $name) }}
{{- end }}
{{- $_ := set $found .setting true }}
- {{ toJson . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Variables of a container of the process `.known`: where it writes, its name in consumer groups, its secrets. */}}
{{- define "retouch.env" -}}
{{- $values := .root.Values }}
{{- $known := .known }}
- {name: HOME, value: /var/lib/retouch}
- {name: XDG_CACHE_HOME, value: /var/lib/retouch/cache}
- {name: TMPDIR, value: /tmp}
- {name: RETOUCH_STACK__DIR, value: /var/lib/retouch}
- {name: RETOUCH_STACK__CACHE_DIR, value: /var/lib/retouch/cache}
- {name: RETOUCH_STACK__STOP_TIMEOUT_S, value: {{ $values.stopTimeoutS | quote }}}
- name: RETOUCH_KAFKA__INSTANCE
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- range (include "retouch.secretFiles" . | fromYaml).files }}
- {name: RETOUCH_{{ .setting | upper | replace "." "__" }}_FILE, value: /run/secrets/retouch/{{ .setting }}}
{{- end }}
{{- with $values.kafkaTls }}
{{- if .secret }}
{{- range $field, $key := dict "CAFILE" .ca "CERTFILE" .certificate "KEYFILE" .privateKey }}
{{- if $key }}
- {name: RETOUCH_KAFKA__SSL_{{ $field }}, value: /run/secrets/retouch/kafka-{{ lower $field }}.pem}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $values.secretVariables }}
{{- if or (not (hasPrefix "MLFLOW_" .variable)) (has "registry" $known.needs) }}
- name: {{ .variable }}
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key | quote }}}}
{{- end }}
{{- end }}
{{- end }}

{{/* Mounts of a container of the process `.known`. */}}
{{- define "retouch.mounts" -}}
- {name: state, mountPath: /var/lib/retouch}
- {name: tmp, mountPath: /tmp}
- {name: secrets, mountPath: /run/secrets/retouch, readOnly: true}
{{- range .root.Values.volumeMounts }}
- {{ merge (dict "readOnly" true) . | toJson }}
{{- end }}
{{- end }}

{{/* Its volumes, but for the state directory. */}}
{{- define "retouch.volumes" -}}
{{- $tls := .root.Values.kafkaTls -}}
- {name: tmp, emptyDir: {}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- $files := (include "retouch.secretFiles" . | fromYaml).files }}
      {{- if not (or $files $tls.secret) }} []{{ end }}
      {{- range $files }}
      - secret: {name: {{ .secret }}, items: [{key: {{ .key | quote }}, path: {{ .setting }}}]}
      {{- end }}
      {{- if $tls.secret }}
      {{- range $path, $key := dict "kafka-cafile.pem" $tls.ca "kafka-certfile.pem" $tls.certificate "kafka-keyfile.pem" $tls.privateKey }}
      {{- if $key }}
      - secret: {name: {{ $tls.secret }}, items: [{key: {{ $key | quote }}, path: {{ $path }}}]}
      {{- end }}
      {{- end }}
      {{- end }}
{{- range .root.Values.volumes }}
- {{ toJson . }}
{{- end }}
{{- end }}
