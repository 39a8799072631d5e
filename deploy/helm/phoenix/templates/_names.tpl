{{- define "phoenix.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Names of roles are appended, so 50 of 63 characters are left. */}}
{{- define "phoenix.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "phoenix.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "phoenix.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "phoenix.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "phoenix.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "phoenix.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change: (dict "root" $ "role" role), or without a role. */}}
{{- define "phoenix.selectorLabels" -}}
app.kubernetes.io/name: {{ include "phoenix.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .role }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "phoenix.labels" -}}
{{ include "phoenix.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: phoenix
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "phoenix.roles" -}}
[gateway, planner, executor, health]
{{- end -}}

{{/* Port of a role, and of its /metrics. */}}
{{- define "phoenix.port" -}}
{{- get (dict "gateway" 8181 "planner" 50051 "executor" 50052 "health" 50053) . -}}
{{- end -}}
{{- define "phoenix.metricsPort" -}}
{{- get (dict "gateway" 9000 "planner" 9001 "executor" 9002 "health" 9003) . -}}
{{- end -}}

{{- define "phoenix.portName" -}}
{{- if eq . "gateway" }}http{{ else }}grpc{{ end -}}
{{- end -}}

{{/* URL of the peers with a role. The name resolves to the addresses of all their pods. */}}
{{- define "phoenix.url" -}}
{{- $scheme := ternary "https" "http" .root.Values.tls.enabled -}}
{{- printf "%s://%s-%s.%s.svc:%s" $scheme (include "phoenix.fullname" .root) .role .root.Release.Namespace (include "phoenix.port" .role) -}}
{{- end -}}

{{/* Not empty when the role stores its data in a SQLite file. */}}
{{- define "phoenix.usesSqlite" -}}
{{- if and (has .role (list "planner" "health")) (eq .root.Values.database.kind "sqlite") }}true{{ end -}}
{{- end -}}

{{/* Not empty when the role may have more than one pod. */}}
{{- define "phoenix.isReplicated" -}}
{{- $values := get .root.Values .role -}}
{{- if $values.autoscaling.enabled -}}
{{- if gt (int $values.autoscaling.minReplicas) 1 }}true{{ end -}}
{{- else if gt (int $values.replicas) 1 }}true{{ end -}}
{{- end -}}

{{/* Secret with the certificate of a role. */}}
{{- define "phoenix.tlsSecret" -}}
{{- default (printf "%s-%s-tls" (include "phoenix.fullname" .root) .role) (get .root.Values.tls.existingSecrets .role) -}}
{{- end -}}
{{- define "phoenix.gatewayTlsSecret" -}}
{{- default (printf "%s-gateway-https" (include "phoenix.fullname" .)) .Values.gateway.tls.existingSecret -}}
{{- end -}}

{{/* DNS names of the certificate of a role: one whose first label is the role, which says whose it is, and that of its Service. */}}
{{- define "phoenix.dnsNames" -}}
- {{ .role }}.{{ include "phoenix.fullname" .root }}.{{ .root.Release.Namespace }}.svc
- {{ include "phoenix.fullname" .root }}-{{ .role }}.{{ .root.Release.Namespace }}.svc
{{- end -}}
