{{- define "csi-nfs.name" -}}
{{ .Values.nameOverride | default .Chart.Name }}
{{- end }}

{{/* The release's name, followed by the chart's name unless the release's name contains it. */}}
{{- define "csi-nfs.fullname" -}}
{{- $name := include "csi-nfs.name" . }}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ $name }}{{ end -}}
{{- end }}

{{- define "csi-nfs.selector" -}}
app.kubernetes.io/name: {{ include "csi-nfs.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "csi-nfs.labels" -}}
{{ include "csi-nfs.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "csi-nfs.image" -}}
{{- with .Values.image }}
{{- .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}

{{/* The driver's flags in both modes. The argument has the template's context and the metrics port: context, port. */}}
{{- define "csi-nfs.driverArgs" -}}
{{- $port := .port }}
{{- with .context -}}
- --endpoint=unix:///csi/csi.sock
- --drivername={{ .Values.driver.name }}
- --log-format={{ .Values.driver.logFormat }}
- -v={{ .Values.driver.verbosity }}
{{- with .Values.driver.otlpEndpoint }}
- --otlp-endpoint={{ . }}
{{- end }}
- --mount-permissions={{ .Values.driver.mountPermissions }}
- --shutdown-grace={{ .Values.driver.shutdownGraceSeconds }}s
{{- if .Values.metrics.enabled }}
- --http-endpoint={{ .Values.metrics.address }}:{{ $port }}
{{- end }}
{{- end }}
{{- end }}

{{/* The mount options are in the environment, so that `kubectl exec … csi-nfs check` mounts as the driver does. The
argument has the template's context, the options of exports, and extra variables: context, ofExports, extra. */}}
{{- define "csi-nfs.driverEnv" -}}
{{- with .context.Values.driver.mountOptions }}
- {name: CSI_NFS_MOUNT_OPTIONS, value: {{ join "," . | quote }}}
{{- end }}
{{- with .ofExports }}
- {name: CSI_NFS_EXPORT_MOUNT_OPTIONS, value: {{ join ";" . | quote }}}
{{- end }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* kubelet probes with the driver's binary, because the image contains nothing else. */}}
{{- define "csi-nfs.probes" -}}
startupProbe:
  exec: {command: [/csi-nfs, probe, --endpoint=unix:///csi/csi.sock]}
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  exec: {command: [/csi-nfs, probe, --endpoint=unix:///csi/csi.sock]}
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 5
{{- end }}

{{/* The volume of an export in the agent's pod: the export's name, as far as a volume may have it. */}}
{{- define "csi-nfs.exportVolume" -}}
export-{{ . | replace "." "-" | trunc 56 | trimSuffix "-" }}
{{- end }}

{{/* Where pods run. The argument has the values of a component and the template's context: component, context. */}}
{{- define "csi-nfs.scheduling" -}}
nodeSelector: {{- merge (dict "kubernetes.io/os" "linux") .component.nodeSelector | toYaml | nindent 2 }}
{{- with .component.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .context.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Not empty if the controller needs neither root nor a capability. A pod in the network of its node sets no sysctl, and
only root may be given the capability for ports below 1024. */}}
{{- define "csi-nfs.unprivileged" -}}
{{- if and (eq .Values.controller.client "own") (not .Values.controller.hostNetwork) }}true{{ end -}}
{{- end }}

{{/* Settings of security modules for the driver's container of a component. */}}
{{- define "csi-nfs.securityModules" -}}
{{- with .seLinuxOptions }}
seLinuxOptions: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .appArmorProfile }}
appArmorProfile: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The restrictions of every container except the node plugin. */}}
{{- define "csi-nfs.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The arguments of all sidecars. Each sidecar has its own leader election and uses the driver of its own pod. */}}
{{- define "csi-nfs.sidecarArgs" -}}
- --csi-address=/csi/csi.sock
- --leader-election
- --leader-election-namespace=$(NAMESPACE)
- --kube-api-qps={{ .Values.sidecars.kubeApiQps }}
- --kube-api-burst={{ .Values.sidecars.kubeApiBurst }}
- --v={{ .Values.sidecars.verbosity }}
{{- end }}

{{- define "csi-nfs.sidecarEnv" -}}
- name: NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- end }}

{{/* Only the sidecars get the API token. The driver reads data of tenants, so it gets no token. */}}
{{- define "csi-nfs.sidecarMounts" -}}
- {name: socket, mountPath: /csi}
- {name: api-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{- define "csi-nfs.tokenVolume" -}}
name: api-token
projected:
  sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3607}
    - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
    - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}

{{/* Not empty if Kubernetes lacks VolumeAttributesClass in storage.k8s.io/v1. The sidecars use no earlier one. */}}
{{- define "csi-nfs.lacksAttributesClasses" -}}
{{- if semverCompare "<1.34.0-0" .Capabilities.KubeVersion.Version }}true{{ end -}}
{{- end }}
