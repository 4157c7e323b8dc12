{{/*
What the chart knows of each process: its arguments behind `python -m`, its consumer group, the topic whose lag scales it (none: all topics of the group),
the destinations that it needs besides Kafka and telemetry, the sections besides kafka whose secrets it gets, and whether it is stateful.

Deployments, because a worker's state is on the broker: kafka.instance is the pod's name, so a container that restarts keeps its partitions, and a pod that
stops in order hands them over at once. StatefulSets with one replica for the trainer and the promoter: at most one of each may run, and a run that was
interrupted resumes from its folder.
*/}}
{{- define "retouch.processes" -}}
streams: {args: [streams], group: retouch-streams, topic: "", needs: [index, embedder], secrets: [index, embedder]}
base: {args: [workers, base], group: retouch-base, topic: queries, needs: [endpoints], secrets: [base]}
strategies: {args: [workers, strategies], group: retouch-strategies, topic: retrievals, needs: [endpoints, registry], secrets: [base]}
reflection: {args: [workers, reflection], group: retouch-reflection, topic: contexts, needs: [registry], secrets: []}
profiles: {args: [workers, profiles], group: retouch-profiles, topic: profile-tasks, needs: [endpoints], secrets: [base, profiles]}
teacher: {args: [workers, teacher], group: retouch-teacher, topic: outcomes, needs: [endpoints], secrets: [teacher]}
sources: {args: [workers, sources], group: retouch-sources, topic: "", needs: [schemaRegistry], secrets: [sources]}
quality: {args: [streams, quality], group: retouch-quality, topic: "", needs: [], secrets: []}
trainer: {args: [trainer], needs: [registry, endpoints], secrets: [base], stateful: true}
promoter: {args: [trainer.promotion], needs: [registry], secrets: [promotion], stateful: true, page: true}
{{- end }}
