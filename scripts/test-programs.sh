#!/usr/bin/env bash
# What some tests use: Debian's packages of PostgreSQL, of Chromium with its driver and of kcat, and kafkajs from npm. Those tests skip and say what is missing
# where they are not. Packages need root and apt-get, kafkajs needs Node.js with npm; without them, or where installing fails, it says so and ends well.
# Nothing happens where everything is there.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "test programs: $*" >&2; }

# From the lock file, into .cache/node. Debian's npm is 400 packages, so only a Node.js that is there is used.
get_kafkajs() {
    local folder=.cache/node
    cmp -s tests/programs/package-lock.json "$folder/node_modules/package-lock.json" && return
    command -v npm >/dev/null || { say "npm is missing: the test of kafkajs will skip"; return; }
    mkdir -p "$folder"
    cp tests/programs/package.json tests/programs/package-lock.json "$folder/"
    if ( cd "$folder" && timeout 120 npm ci --ignore-scripts --no-audit --no-fund ) >/dev/null; then
        cp tests/programs/package-lock.json "$folder/node_modules/"
    else
        say "could not install kafkajs: its test will skip"
    fi
}
get_kafkajs

missing=()
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || missing+=(postgresql)
command -v chromium >/dev/null || missing+=(chromium)
command -v chromedriver >/dev/null || missing+=(chromium-driver)
command -v kcat >/dev/null || missing+=(kcat)
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
