#!/bin/sh
# Starts Prometheus in its container. With METRICS_TOKEN set, Prometheus presents the token to what it scrapes.
set -eu
etc=${PROMETHEUS_ETC:-/etc/prometheus}
config=$etc/prometheus.yml
if [ -n "${METRICS_TOKEN:-}" ]; then
    run=${PROMETHEUS_RUN:-/tmp}
    umask 077
    printf '%s' "$METRICS_TOKEN" >"$run/metrics.token"
    # Paths in a configuration are relative to its folder.
    sed -e "s|rules/|$etc/rules/|" \
        -e "s|^  - job_name: .*|&\\
    authorization: { credentials_file: $run/metrics.token }|" "$config" >"$run/prometheus.yml"
    config=$run/prometheus.yml
fi
exec "${PROMETHEUS_BIN:-/bin/prometheus}" --config.file="$config" --storage.tsdb.path=/prometheus "$@"
