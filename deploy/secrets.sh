#!/bin/sh
# Makes the secrets of a new installation, one a file: deploy/secrets.sh FOLDER. What is there already stays as it is.
#
# The folder is for its owner alone. The files in it are readable, because an engine without Swarm mounts them into
# their containers as they are, and there nobody is root.
set -eu
folder=${1:?usage: deploy/secrets.sh FOLDER}
command -v openssl >/dev/null || { echo "openssl is needed to make secrets." >&2; exit 1; }
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

# made NAME COMMAND...: what the command says becomes the secret NAME, unless there is one.
made() {
    name=$folder/$1
    shift
    [ -e "$name" ] && return
    "$@" >"$name.new"
    chmod 444 "$name.new"
    mv "$name.new" "$name"
}

made postgres_password openssl rand -hex 24
made grafana_password openssl rand -hex 16
made blob_key_id openssl rand -hex 10
made blob_secret openssl rand -hex 32
made database_url printf 'postgresql+asyncpg://sdx:%s@postgres:5432/sdx\n' "$(cat "$folder/postgres_password")"
made s3.json printf '{"identities": [{"name": "hub", "credentials": [{"accessKey": "%s", "secretKey": "%s"}],
  "actions": ["Read:sdx", "Write:sdx", "List:sdx"]}]}\n' "$(cat "$folder/blob_key_id")" "$(cat "$folder/blob_secret")"

for name in tls.crt tls.key; do
    [ -e "$folder/$name" ] || echo "Still to come: $folder/$name, the proxy's certificate chain and key (PEM, mode 444)."
done
