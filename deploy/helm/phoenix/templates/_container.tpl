{{/* Parts of the one container of a pod: (dict "root" $ "role" role). */}}

{{- define "phoenix.env" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $role := .role -}}
{{- $port := include "phoenix.port" $role -}}
- name: {{ ternary "HTTP_ADDR" "GRPC_ADDR" (eq $role "gateway") }}
  value: 0.0.0.0:{{ $port }}
- name: METRICS_ADDR
  value: 0.0.0.0:{{ include "phoenix.metricsPort" $role }}
{{- range $peer := list "planner" "executor" "health" }}
- name: {{ upper $peer }}_URL
  value: {{ include "phoenix.url" (dict "root" $root "role" $peer) }}
{{- end }}
- name: LOG_FORMAT
  value: {{ $values.log.format }}
{{- with $values.log.filter }}
- name: RUST_LOG
  value: {{ . | quote }}
{{- end }}
- name: PHOENIX_SERVICE_TOKEN
  valueFrom:
    secretKeyRef: { name: {{ $values.auth.existingSecret }}, key: PHOENIX_SERVICE_TOKEN }
{{- if $values.auth.metricsToken }}
- name: METRICS_TOKEN
  valueFrom:
    secretKeyRef: { name: {{ $values.auth.existingSecret }}, key: METRICS_TOKEN }
{{- end }}
{{- if eq $role "gateway" }}
- name: ORCH_API_TOKEN
  valueFrom:
    secretKeyRef: { name: {{ $values.auth.existingSecret }}, key: ORCH_API_TOKEN }
{{- end }}
{{- if or $values.insecure (and (eq $role "gateway") (not $values.gateway.tls.enabled)) }}
- name: PHOENIX_INSECURE
  value: "true"
{{- end }}
{{- if $values.tls.enabled }}
- name: TLS_CERT
  value: /etc/phoenix-tls/tls.crt
- name: TLS_KEY
  value: /etc/phoenix-tls/tls.key
- name: TLS_CA
  value: /etc/phoenix-tls/ca.crt
{{- end }}
{{- if and (eq $role "gateway") $values.gateway.tls.enabled }}
- name: GATEWAY_TLS_CERT
  value: /etc/phoenix-https/tls.crt
- name: GATEWAY_TLS_KEY
  value: /etc/phoenix-https/tls.key
{{- end }}
{{- if eq $role "planner" }}
{{/* Where other planners reach this one: a name of the Service would lead to any of them. */}}
- name: POD_IP
  valueFrom:
    fieldRef: { fieldPath: status.podIP }
- name: PLANNER_ADVERTISE_URL
  value: {{ ternary "https" "http" $values.tls.enabled }}://$(POD_IP):{{ $port }}
{{- end }}
{{- if has $role (list "planner" "health") }}
{{- if include "phoenix.usesSqlite" . }}
- name: DATABASE_URL
  value: sqlite:///data/{{ $role }}.db
{{- else }}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ $values.database.postgresql.existingSecret }}
      key: {{ $values.database.postgresql.key }}
{{- with $values.database.postgresql.pooler }}
- name: DATABASE_POOLER
  value: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- if eq $role "executor" }}
- name: OBSIDIAN_AGENT_VAULT_ROOT
  value: /vault
- name: GIT_AGENT_REPO_ROOT
  value: /repo
{{- end }}
{{- range $name, $value := merge (dict) (get $values $role).env $values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "phoenix.probes" -}}
{{- $values := .root.Values -}}
{{- $isGateway := eq .role "gateway" -}}
{{- $scheme := ternary "HTTPS" "HTTP" (and $isGateway $values.gateway.tls.enabled) -}}
{{- $port := ternary "http" "metrics" $isGateway -}}
{{/* A start may wait for a migration of the database; a restart would begin it again. */}}
startupProbe:
  httpGet: { path: /livez, port: {{ $port }}, scheme: {{ $scheme }} }
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 150
{{/* Liveness does not depend on other services: a restart does not repair them. */}}
livenessProbe:
  httpGet: { path: /livez, port: {{ $port }}, scheme: {{ $scheme }} }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
{{- if $isGateway }}
  httpGet: { path: {{ $values.gateway.readinessPath }}, port: http, scheme: {{ $scheme }} }
{{- else if $values.tls.enabled }}
  # The gRPC port asks for a client certificate, which a kubelet has not.
  httpGet: { path: /readyz, port: metrics, scheme: HTTP }
{{- else }}
  grpc: { port: {{ include "phoenix.port" .role }} }
{{- end }}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end -}}

{{- define "phoenix.volumeMounts" -}}
{{- $values := .root.Values -}}
- { name: config, mountPath: /etc/phoenix, readOnly: true }
- { name: tmp, mountPath: /tmp }
{{- if $values.tls.enabled }}
- { name: tls, mountPath: /etc/phoenix-tls, readOnly: true }
{{- end }}
{{- if and (eq .role "gateway") $values.gateway.tls.enabled }}
- { name: https, mountPath: /etc/phoenix-https, readOnly: true }
{{- end }}
{{- if has .role (list "planner" "health") }}
{{- if include "phoenix.usesSqlite" . }}
- { name: data, mountPath: /data }
{{- else if $values.database.postgresql.caSecret }}
- { name: database-ca, mountPath: /etc/phoenix-database, readOnly: true }
{{- end }}
{{- end }}
{{- if eq .role "executor" }}
- { name: vault, mountPath: /vault }
- { name: repository, mountPath: /repo }
{{- end }}
{{- end -}}

{{- define "phoenix.volumes" -}}
{{- $values := .root.Values -}}
{{- $fullname := include "phoenix.fullname" .root -}}
- name: config
  configMap: { name: {{ $fullname }}, defaultMode: 0555 }
- name: tmp
  emptyDir: {}
{{- if $values.tls.enabled }}
- name: tls
  secret: { secretName: {{ include "phoenix.tlsSecret" . }}, defaultMode: 0440 }
{{- end }}
{{- if and (eq .role "gateway") $values.gateway.tls.enabled }}
- name: https
  secret: { secretName: {{ include "phoenix.gatewayTlsSecret" .root }}, defaultMode: 0440 }
{{- end }}
{{- if has .role (list "planner" "health") }}
{{- if include "phoenix.usesSqlite" . }}
- name: data
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-%s" $fullname .role) (get $values.database.sqlite.existingClaims .role) }}
{{- else if $values.database.postgresql.caSecret }}
- name: database-ca
  secret: { secretName: {{ $values.database.postgresql.caSecret }} }
{{- end }}
{{- end }}
{{- if eq .role "executor" }}
{{- range $name := list "vault" "repository" }}
- name: {{ $name }}
{{- with (get $values.executor $name).existingClaim }}
  persistentVolumeClaim: { claimName: {{ . }} }
{{- else }}
  emptyDir: {}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
