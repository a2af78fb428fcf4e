{{- define "gateway-manager.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "gateway-manager.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "gateway-manager.selector" . }}
{{- end -}}

{{- define "gateway-manager.selector" -}}
app.kubernetes.io/name: gateway-manager
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gateway-manager.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "gateway-manager.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "gateway-manager.gateways" -}}
{{- default .Release.Namespace .Values.gateways.namespace -}}
{{- end -}}

{{- define "gateway-manager.local" -}}
{{- if eq .Values.store.kind "local" -}}true{{- end -}}
{{- end -}}

{{- /* What names the gateways, the lease and its label: one fleet for each release. */ -}}
{{- define "gateway-manager.prefix" -}}
{{- include "gateway-manager.name" . | trunc 24 | trimSuffix "-" -}}
{{- end -}}

{{- define "gateway-manager.lease" -}}
{{- include "gateway-manager.prefix" . }}-manager
{{- end -}}
