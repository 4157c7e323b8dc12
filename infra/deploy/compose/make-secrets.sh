#!/usr/bin/env bash
# Makes the secrets of compose.yaml, each at random, below .retouch/compose-secrets or the folder given. A secret that is there stays.
set -euo pipefail
folder=${1:-$(cd "$(dirname "$0")/../../.." && pwd)/.retouch/compose-secrets}

# Containers read the files as users of their own: the folder keeps the users of this machine out.
mkdir -p "$folder" && chmod 700 "$folder"
random() { head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n'; }
secret() { [ -s "$folder/$1" ] || { random >"$folder/$1" && chmod 644 "$folder/$1"; }; }

for name in kafka-password kafka-broker-password qdrant-api-key postgres-password mlflow-password mlflow-session-key operator-token; do secret "$name"; done
# Kafka reads passwords from a file of properties.
printf 'retouch=%s\nbroker=%s\n' "$(cat "$folder/kafka-password")" "$(cat "$folder/kafka-broker-password")" >"$folder/kafka.properties"
chmod 644 "$folder/kafka.properties"
echo "secrets are in $folder"
