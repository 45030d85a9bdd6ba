#!/usr/bin/env bash
# Tidegate from a shell, with grpcurl, and Python for JSON. Needs no .proto files: the daemon describes itself.
#
#   kiosk.sh services
#   kiosk.sh sign-in USER               (the password is read from stdin)
#   kiosk.sh hand-over FILE KEY         (CreateUpload: the file stays where it is; must lie beneath a file root)
#   kiosk.sh stream FILE KEY            (Upload: the bytes go over the socket)
#   kiosk.sh watch uploads/ULID         (until it has ended)
#   kiosk.sh aws ARGUMENT...            (the AWS CLI with the user's own credentials)
#
# TIDEGATE_SOCKET names the socket, GRPCURL and AWS the programs.
set -euo pipefail

socket=${TIDEGATE_SOCKET:-/run/tidegate/tidegate.sock}
chunk_bytes=262144

# Without `-authority` grpcurl sends the socket's path as the HTTP/2 authority, which servers refuse.
call() { "${GRPCURL:-grpcurl}" -plaintext -unix -authority localhost "$@"; }

# JSON in, one value out: `field session.name`.
field() { python3 -c '
import functools, json, sys
print(functools.reduce(lambda value, key: value[key], sys.argv[1].split("."), json.load(sys.stdin)))' "$1"; }

# Arguments in, a JSON object out: `object user "$name"`.
object() { python3 -c '
import json, sys
print(json.dumps(dict(zip(sys.argv[1::2], sys.argv[2::2]))))' "$@"; }

new_ulid() { python3 -c '
import os, time
number = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
print("".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[number >> 5 * i & 31] for i in range(25, -1, -1)))'; }

# The messages of one Upload stream, one JSON object per line; bytes are base64 in JSON.
messages() {
    local file=$1 spec=$2
    printf '{"begin": {"uploadId": "%s", "spec": %s}}\n' "$(new_ulid)" "$spec"
    split --bytes="$chunk_bytes" --filter='printf "{\"chunk\": \"%s\"}\n" "$(base64 --wrap=0)"' "$file"
    printf '{"finish": {"totalBytes": "%s"}}\n' "$(stat --format=%s "$file")"
}

command=${1:?services, sign-in, hand-over, stream, watch or aws}
shift
case $command in
services)
    call "$socket" list
    ;;
sign-in)
    read -rs password
    # Through stdin, so that the password is in no process list.
    printf '{"password": %s}' "$(printf '%s' "$password" | python3 -c '
import json, sys
print(json.dumps({"username": sys.argv[1], "password": sys.stdin.read()}))' "$1")" |
        call -d @ "$socket" tidegate.v1.SessionService/SignIn | field session.name
    ;;
hand-over)
    printf '{"spec": %s, "path": %s}' "$(object key "$2")" "$(realpath "$1" | python3 -c '
import json, sys
print(json.dumps(sys.stdin.read().rstrip("\n")))')" |
        call -d @ "$socket" tidegate.v1.UploadService/CreateUpload | field upload.name
    ;;
stream)
    messages "$1" "$(object key "$2")" |
        call -d @ "$socket" tidegate.v1.UploadService/Upload | field upload.name
    ;;
watch)
    call -d "$(object name "$1")" "$socket" tidegate.v1.UploadService/WatchUpload
    ;;
aws)
    credentials=$(call -d '{}' "$socket" tidegate.v1.CredentialService/GetAwsCredentials)
    AWS_ACCESS_KEY_ID=$(field credentials.accessKeyId <<<"$credentials")
    AWS_SECRET_ACCESS_KEY=$(field credentials.secretAccessKey <<<"$credentials")
    AWS_SESSION_TOKEN=$(field credentials.sessionToken <<<"$credentials")
    export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
    exec "${AWS:-aws}" "$@"
    ;;
*)
    echo "kiosk.sh: no command '$command'" >&2
    exit 2
    ;;
esac
