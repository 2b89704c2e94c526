{{- define "mproxy.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "mproxy.selector" -}}
app.kubernetes.io/name: mproxy
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mproxy.labels" -}}
{{ include "mproxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "mproxy.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "mproxy.security" -}}
runAsUser: 65532
runAsGroup: 65532
runAsNonRoot: true
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: { drop: [ALL] }
{{- end -}}

{{/* The ports of clients: a list of name and port. */}}
{{- define "mproxy.ports" -}}
{{- $tls := .Values.tls.secretName -}}
{{- if or .Values.tls.plain (not $tls) }}
- { name: mqtt, port: 1883 }
{{- if .Values.websocket.enabled }}
- { name: ws, port: 8080 }
{{- end }}
{{- end }}
{{- if $tls }}
- { name: mqtts, port: 8883 }
{{- if .Values.websocket.enabled }}
- { name: wss, port: 8443 }
{{- end }}
{{- end }}
{{- end -}}

{{- define "mproxy.settings" -}}
{{- $tls := .Values.tls.secretName -}}
{{- $plain := or .Values.tls.plain (not $tls) -}}
{{- $ws := .Values.websocket.enabled -}}
MPROXY_ADMIN_HOST: 0.0.0.0
MPROXY_MQTT_PORT: {{ ternary "1883" "off" $plain | quote }}
MPROXY_WS_PORT: {{ ternary "8080" "off" (and $plain $ws) | quote }}
MPROXY_MQTT_TARGET_HOST: {{ required "broker.host: the address of the broker has to be set" .Values.broker.host }}
MPROXY_MQTT_TARGET_PORT: {{ .Values.broker.port }}
MPROXY_MQTT_TARGET_SCHEME: {{ .Values.broker.scheme }}
{{- if $ws }}
MPROXY_WS_PATH: {{ .Values.websocket.path }}
MPROXY_WS_TARGET_HOST: {{ .Values.broker.host }}
MPROXY_WS_TARGET_PORT: {{ .Values.broker.port }}
MPROXY_WS_TARGET_SCHEME: {{ .Values.broker.scheme }}
{{- end }}
{{- if ne .Values.broker.proxyProtocol "off" }}
MPROXY_TARGET_PROXY_PROTOCOL: {{ .Values.broker.proxyProtocol }}
{{- end }}
{{- if $tls }}
MPROXY_SERVER_CERT: /run/mproxy/tls/tls.crt
MPROXY_SERVER_KEY: /run/mproxy/tls/tls.key
MPROXY_MQTTS_PORT: 8883
MPROXY_WSS_PORT: {{ ternary "8443" "off" $ws | quote }}
{{- with .Values.websocket }}
{{- if .enabled }}
MPROXY_WSS_PATH: {{ .path }}
{{- end }}
{{- end }}
{{- if .Values.tls.clientCaSecretName }}
MPROXY_CLIENT_TLS: {{ ternary "optional" "true" (eq .Values.tls.clientCertificates "optional") | quote }}
MPROXY_CA_CERTS: /run/mproxy/client-ca/ca.crt
{{- end }}
{{- end }}
{{- if .Values.rules }}
MPROXY_ACL_FILE: /etc/mproxy/rules.toml
{{- end }}
{{- with .Values.policy }}
{{- if .url }}
MPROXY_POLICY_URL: {{ .url }}
MPROXY_POLICY_ON_ERROR: {{ .onError }}
MPROXY_POLICY_TIMEOUT: {{ .timeout }}
{{- end }}
{{- end }}
MPROXY_BUDGET_TOTAL: {{ .Values.budget }}
MPROXY_DRAIN_TIMEOUT: {{ .Values.drain.timeoutSeconds }}s
{{- with .Values.drain.serverReference }}
MPROXY_DRAIN_SERVER_REFERENCE: {{ . }}
{{- end }}
MPROXY_LOG_LEVEL: {{ .Values.log.level }}
MPROXY_LOG_FORMAT: {{ .Values.log.format }}
{{- end -}}
