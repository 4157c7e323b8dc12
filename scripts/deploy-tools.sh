#!/usr/bin/env bash
# What the tests of infra/deploy use, in .cache/deploy-tools: promtool from Debian's package, the resource definitions of KEDA and the Prometheus operator
# from their Go modules, and Helm. `deploy-tools.sh quick` leaves out Helm: its build takes two to five minutes on two cores. Tests without their tool skip and
# say so. Safe to run again; what is there stays.
set -euo pipefail
cd "$(dirname "$0")/.."

HELM=v4.3.1 KEDA=v2.21.0 PROMETHEUS_OPERATOR=v0.85.0
TOOLS=$PWD/.cache/deploy-tools

say() { echo "deploy tools: $*" >&2; }

get_promtool() {
    [ -x "$TOOLS/promtool" ] || command -v promtool >/dev/null && return
    command -v apt-get >/dev/null || { say "promtool is missing, and there is no apt-get"; return; }
    local folder; folder=$(mktemp -d)
    if ( cd "$folder" && { timeout 120 apt-get -qq download prometheus || { timeout 300 apt-get -qq update && timeout 120 apt-get -qq download prometheus; }; } \
        && dpkg-deb -x prometheus_*.deb . ) >/dev/null 2>&1; then
        cp "$folder/usr/bin/promtool" "$TOOLS/promtool"
    else
        say "could not download Debian's package prometheus, which has promtool"
    fi
    rm -rf "$folder"
}

# get_definitions MODULE VERSION FOLDER FILE...: copies resource definitions out of a Go module
get_definitions() {
    local module=$1 version=$2 folder=$3 source file; shift 3
    for file in "$@"; do [ -f "$TOOLS/definitions/$version/$file" ] || { file=; break; }; done
    [ -n "$file" ] && return
    source=$(timeout 300 go mod download -json "$module@$version" 2>/dev/null | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p') || true
    [ -n "$source" ] || { say "could not download the Go module $module"; return; }
    mkdir -p "$TOOLS/definitions/$version"
    for file in "$@"; do install -m 644 "$source/$folder/$file" "$TOOLS/definitions/$version/"; done
}

get_helm() {
    [ -x "$TOOLS/helm-$HELM" ] && return
    say "building Helm $HELM"
    local folder; folder=$(mktemp -d)
    if GOBIN=$folder timeout 1200 go install "helm.sh/helm/v4/cmd/helm@$HELM"; then
        mv "$folder/helm" "$TOOLS/helm-$HELM"
    else
        say "could not build Helm"
    fi
    rm -rf "$folder"
}

mkdir -p "$TOOLS"
get_promtool
if command -v go >/dev/null; then
    get_definitions github.com/kedacore/keda/v2 "$KEDA" config/crd/bases keda.sh_scaledobjects.yaml keda.sh_triggerauthentications.yaml
    get_definitions github.com/prometheus-operator/prometheus-operator "$PROMETHEUS_OPERATOR" example/prometheus-operator-crd \
        monitoring.coreos.com_podmonitors.yaml monitoring.coreos.com_prometheusrules.yaml
    [ "${1:-}" = quick ] || get_helm
else
    say "Go is missing: Helm and the definitions of KEDA and the Prometheus operator cannot be fetched"
fi
