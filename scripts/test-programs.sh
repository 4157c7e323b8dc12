#!/usr/bin/env bash
# Debian's packages that some tests use: PostgreSQL, and Chromium with its driver. Those tests skip and say what is missing where they are not.
# Needs root and apt-get to install; without them, or where installing fails, it says so and ends well. Nothing happens where everything is there.
set -euo pipefail

say() { echo "test programs: $*" >&2; }

missing=()
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || missing+=(postgresql)
command -v chromium >/dev/null || missing+=(chromium)
command -v chromedriver >/dev/null || missing+=(chromium-driver)
[ ${#missing[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    say "missing: ${missing[*]}; tests that need them will skip (as root on Debian or Ubuntu: apt-get install ${missing[*]})"
    exit 0
fi
say "installing ${missing[*]}"
# The tests start PostgreSQL by themselves: this machine needs no server of its own.
if [[ " ${missing[*]} " == *" postgresql "* && ! -e /etc/postgresql-common ]]; then
    mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/no-main-cluster.conf
fi
export DEBIAN_FRONTEND=noninteractive
apt=(timeout 300 apt-get -qq -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=60)
if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } >/dev/null; then
    say "could not install ${missing[*]}; tests that need them will skip"
fi
