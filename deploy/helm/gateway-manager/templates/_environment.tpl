{{- define "gateway-manager.environment" -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
- {name: HOME, value: /var/lib/gateway-manager}
- {name: GATEWAY_MANAGER_STATE_DIR, value: /var/lib/gateway-manager/state}
- {name: GATEWAY_MANAGER_LOG_FORMAT, value: json}
- {name: GATEWAY_MANAGER_RUNTIME_URL, value: {{ printf "kubernetes:%s" (include "gateway-manager.gateways" .) | quote }}}
- {name: GATEWAY_MANAGER_CONTAINER_PREFIX, value: {{ include "gateway-manager.prefix" . | quote }}}
- {name: GATEWAY_MANAGER_KUBERNETES_NETWORK_POLICY, value: "false"}
- {name: GATEWAY_MANAGER_ON_EXIT, value: detach}
- {name: GATEWAY_MANAGER_METRICS_ADDRESS, value: {{ printf "0.0.0.0:%d" (int .Values.metrics.port) | quote }}}
{{- if eq .Values.store.kind "mongodb" }}
- {name: GATEWAY_MANAGER_STORE_URL, value: "mongodb:"}
- {name: MONGO_DB_NAME, value: {{ .Values.store.mongodb.database | quote }}}
- name: MONGO_URI
  valueFrom:
    secretKeyRef: {name: {{ .Values.store.mongodb.uriSecret.name }}, key: {{ .Values.store.mongodb.uriSecret.key | quote }}}
{{- else }}
- {name: GATEWAY_MANAGER_STORE_URL, value: "local:"}
{{- end }}
{{- if .Values.ibgateways.enabled }}
- {name: GATEWAY_MANAGER_FOLLOWERS_URL, value: {{ printf "kubernetes:%s" (include "gateway-manager.gateways" .) | quote }}}
{{- end }}
- {name: GATEWAY_MANAGER_VAULT_ENABLED, value: {{ .Values.vault.address | empty | not | quote }}}
{{- with .Values.vault }}
{{- if .address }}
- {name: VAULT_ADDR, value: {{ .address | quote }}}
- {name: VAULT_AUTH_METHOD, value: kubernetes}
- {name: VAULT_AUTH_ROLE, value: {{ .role | quote }}}
- {name: VAULT_AUTH_MOUNT, value: {{ .authMount | quote }}}
- {name: VAULT_JWT_FILE, value: /var/run/secrets/gateway-manager/vault/token}
- {name: GATEWAY_MANAGER_VAULT_MOUNT, value: {{ .mount | quote }}}
{{- with .namespace }}
- {name: VAULT_NAMESPACE, value: {{ . | quote }}}
{{- end }}
{{- if .caConfigMap.name }}
- {name: VAULT_CACERT, value: /var/run/secrets/gateway-manager/vault/ca.crt}
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.api.enabled }}
{{- $name := include "gateway-manager.name" . }}
{{- $hosts := list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) }}
- {name: GATEWAY_MANAGER_HTTP_ADDRESS, value: {{ printf "0.0.0.0:%d" (int .Values.api.port) | quote }}}
- {name: GATEWAY_MANAGER_HTTP_ALLOWED_HOSTS, value: {{ concat $hosts .Values.api.hosts | toJson | quote }}}
- {name: GATEWAY_MANAGER_HTTP_URL, value: {{ printf "https://%s.%s.svc:%d" $name .Release.Namespace (int .Values.api.port) | quote }}}
{{- if .Values.api.tlsSecret }}
- {name: GATEWAY_MANAGER_HTTP_CERT_FILE, value: /var/run/secrets/gateway-manager/api/tls.crt}
- {name: GATEWAY_MANAGER_HTTP_KEY_FILE, value: /var/run/secrets/gateway-manager/api/tls.key}
{{- end }}
{{- if .Values.api.behindProxy }}
- {name: GATEWAY_MANAGER_HTTP_BEHIND_PROXY, value: "true"}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: {{ printf "GATEWAY_MANAGER_%s" (upper $name) }}, value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
