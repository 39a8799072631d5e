{{/* What a schema cannot express. Each message names the value and the remedy. */}}
{{- define "phoenix.validate" -}}
{{- $values := .Values -}}
{{- if not $values.auth.existingSecret -}}
{{- fail "auth.existingSecret is empty; create a Secret with PHOENIX_SERVICE_TOKEN and ORCH_API_TOKEN, and name it" -}}
{{- end -}}
{{- if and $values.tls.enabled $values.insecure -}}
{{- fail "tls.enabled and insecure are both true; set one of them" -}}
{{- end -}}
{{- if not (or $values.tls.enabled $values.insecure) -}}
{{- fail "the services would not be encrypted; set tls.enabled with certificates, or insecure on a trusted network" -}}
{{- end -}}
{{- if $values.tls.enabled -}}
{{- range $role := include "phoenix.roles" . | fromYamlArray -}}
{{- if not (or $values.tls.certManager.enabled (get $values.tls.existingSecrets $role)) -}}
{{- fail (printf "tls.existingSecrets.%s is empty; name a Secret with the certificate, or set tls.certManager.enabled" $role) -}}
{{- end -}}
{{- end -}}
{{- if not (or $values.gateway.tls.enabled $values.gateway.plaintext) -}}
{{- fail "the gateway would not be encrypted; set gateway.tls.enabled, or gateway.plaintext behind an ingress" -}}
{{- end -}}
{{- end -}}
{{- if and $values.tls.certManager.enabled (not $values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name is empty; name the issuer of the certificates" -}}
{{- end -}}
{{- if and $values.gateway.tls.enabled (not (or $values.gateway.tls.existingSecret $values.tls.certManager.enabled)) -}}
{{- fail "gateway.tls.existingSecret is empty; name a Secret with the certificate, or set tls.certManager.enabled" -}}
{{- end -}}
{{- if eq $values.database.kind "postgresql" -}}
{{- if not $values.database.postgresql.existingSecret -}}
{{- fail "database.postgresql.existingSecret is empty; name a Secret with the URL of the database" -}}
{{- end -}}
{{- else -}}
{{- range $role := list "planner" "health" -}}
{{- $settings := get $values $role -}}
{{- if or $settings.autoscaling.enabled (gt (int $settings.replicas) 1) -}}
{{- fail (printf "%s: a SQLite file has one %s; set database.kind=postgresql, or %s.replicas=1 without autoscaling" $role $role $role) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if lt (int $values.terminationGracePeriodSeconds) (add (int $values.preStopSeconds) 45 | int) -}}
{{- fail (printf "terminationGracePeriodSeconds=%d would interrupt calls; set at least preStopSeconds + 45" (int $values.terminationGracePeriodSeconds)) -}}
{{- end -}}
{{- end -}}
