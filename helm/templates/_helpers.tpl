{{/* Name of everything in this release. */}}
{{- define "winnow.name" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}{{ .Release.Name | trunc 48 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 48 | trimSuffix "-" }}{{- end -}}
{{- end }}

{{/* The labels that select a component's pods; call with (dict "root" $ "component" "gateway"). */}}
{{- define "winnow.selector" -}}
app.kubernetes.io/name: winnow
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "winnow.labels" -}}
{{ include "winnow.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* An image by digest where there is one, else by tag; call with (dict "root" $ "image" ... "repository" ...). */}}
{{- define "winnow.image" -}}
{{- $repository := default .repository .image.repository -}}
{{- if .image.digest -}}{{ printf "%s@%s" $repository .image.digest }}
{{- else -}}{{ printf "%s:%s" $repository (default .root.Chart.AppVersion .image.tag) }}{{- end -}}
{{- end }}

{{- define "winnow.policyUrl" -}}
{{ default (printf "http://%s-policy:8001" (include "winnow.name" .)) .Values.policy.url }}
{{- end }}

{{/* What the endpoints need to forget a pod, then the longest answer, then a margin to close and to write. */}}
{{- define "winnow.graceSeconds" -}}
{{ add .Values.gateway.preStopSeconds .Values.gateway.drainSeconds 15 }}
{{- end }}

{{/* Variables of the gateway that come from values of their own. */}}
{{- define "winnow.gatewayVariables" -}}
WINNOW_CONFIG WINNOW_HOST WINNOW_PORT WINNOW_KEYS_FILE WINNOW_POLICY_URL WINNOW_POLICY_MODEL WINNOW_SCORER_URL
{{- " WINNOW_DRAIN_SECONDS WINNOW_STORE__URL" }}
{{- if .Values.policy.apiKey.existingSecret }} WINNOW_POLICY_API_KEY{{ end }}
{{- if .Values.scorer.apiKey.existingSecret }} WINNOW_SCORER_API_KEY{{ end }}
{{- if .Values.limits.existingSecret }} WINNOW_LIMITS_URL{{ end }}
{{- end }}

{{/* What every pod of ours is, down to its securityContext. */}}
{{- define "winnow.pod" -}}
automountServiceAccountToken: false
# Kubernetes would tell each pod WINNOW_SCORER_PORT=tcp://..., which is a setting of ours.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "winnow.selector" . | nindent 8 }}
{{- end }}

{{/* Requests and limits, with whole GPUs where there are any; call with (dict "values" ... "gpus" 1). */}}
{{- define "winnow.resources" -}}
{{- $resources := deepCopy .values.resources -}}
{{- if .gpus -}}
{{- $gpus := dict "nvidia.com/gpu" (toString (int .gpus)) -}}
{{- $_ := set $resources "limits" (merge $gpus (default dict $resources.limits)) -}}
{{- end -}}
{{ toYaml $resources }}
{{- end }}

{{/* A volume of a claim, else scratch of a bounded size. */}}
{{- define "winnow.cacheVolume" -}}
{{- if .existingClaim -}}
persistentVolumeClaim: {claimName: {{ .existingClaim }}}
{{- else -}}
emptyDir: {sizeLimit: {{ .emptyDirSize }}}
{{- end -}}
{{- end }}

{{/* An entry of a container's `env` out of a secret, or nothing; call with (dict "variable" ... "secret" ...). */}}
{{- define "winnow.secretVariable" -}}
{{- if .secret.existingSecret }}
            - name: {{ .variable }}
              valueFrom:
                secretKeyRef: {name: {{ .secret.existingSecret }}, key: {{ .secret.key }}}
{{- end }}
{{- end }}
