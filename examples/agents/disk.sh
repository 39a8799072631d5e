#!/bin/sh
# Agent in shell with jq: the space left on the file system of a folder. One JSON line in, one JSON line out; the contract is docs/agents.md.
# It reads one request and ends, so its mode is `oneshot`.
set -eu
request=$(cat)
action=$(printf '%s' "$request" | jq -r .action)
folder=$(printf '%s' "$request" | jq -r '.payload.folder // "/"')

# answer STATUS CODE MEMBER JSON
answer() {
    printf '%s' "$request" | jq -c --arg status "$1" --argjson code "$2" --arg member "$3" --argjson value "$4" \
        '{request_id, api_version, plan_id, task_id, correlation_id, $status, $code, ($member): $value}'
}

if [ "$action" != free ]; then
    answer error 501 error '"unknown action; known: free"'
    exit
fi
case $folder in
    /*) ;;
    *) answer error 400 error '"`folder` must be an absolute path"'; exit ;;
esac
if [ ! -d "$folder" ]; then
    answer error 404 error '"there is no such folder"'
    exit
fi
# The second line of POSIX df: file system, 1024-blocks, used, available, capacity, mount point.
data=$(df -Pk -- "$folder" | awk 'NR == 2 { printf "{\"available_kib\":%s,\"used_kib\":%s}", $4, $3 }')
answer success 0 result "{\"output_type\":\"json\",\"data\":$data}"
