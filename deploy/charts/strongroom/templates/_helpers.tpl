{{/* Labels of every object. Takes [root, the name of what it belongs to]. */}}
{{- define "strongroom.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/part-of: strongroom
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{/* Labels that select a service's pods; the pods have no others that change with a version. Takes the service's name. */}}
{{- define "strongroom.selector" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: strongroom
{{- end }}

{{/* A service's address in the cluster. Takes [root, the service's values, its name]. */}}
{{- define "strongroom.url" -}}
{{- $root := index . 0 -}}
{{- (index . 1).url | default (printf "https://%s.%s.svc:8443" (index . 2) $root.Release.Namespace) | trimSuffix "/" -}}
{{- end }}

{{/* The names of a service's TLS certificate, as JSON. localhost is for `kubectl port-forward`. */}}
{{- define "strongroom.names" -}}
{{- $root := index . 0 -}}
{{- $name := index . 2 -}}
{{- $qualified := printf "%s.%s" $name $root.Release.Namespace -}}
{{- $names := list $name $qualified (printf "%s.svc" $qualified) (printf "%s.svc.%s" $qualified $root.Values.clusterDomain) "localhost" "127.0.0.1" -}}
{{- concat $names (index . 1).names | uniq | toJson -}}
{{- end }}

{{/* "true" where TEEs are simulated. */}}
{{- define "strongroom.simulated" -}}
{{- if eq .Values.shape "simulated" }}true{{ end -}}
{{- end }}

{{/* Where the key service's master key is. */}}
{{- define "strongroom.masterKey" -}}
{{- if .Values.keyService.masterKey -}}
{{ .Values.keyService.masterKey }}
{{- else if not .Values.keyService.databaseUrl -}}
file:///var/lib/strongroom/state/master.key
{{- else -}}
file:///strongroom/private/master.key
{{- end -}}
{{- end }}

{{/* "true" where the key service waits for custodians after each start. */}}
{{- define "strongroom.inCustody" -}}
{{- if hasPrefix "custody:" (include "strongroom.masterKey" .) }}true{{ end -}}
{{- end }}

{{/* "collateralService" or "attestationService": who asks the vendors; nothing where nobody does. */}}
{{- define "strongroom.vendorsClient" -}}
{{- if not (include "strongroom.simulated" .) -}}
{{- if .Values.collateralService.enabled }}collateralService{{ else }}attestationService{{ end -}}
{{- end -}}
{{- end }}

{{/* The claim of a service's volume. Takes [the service's values, its name]. */}}
{{- define "strongroom.claim" -}}
{{- (index . 0).persistence.existingClaim | default (printf "%s-state" (index . 1)) -}}
{{- end }}

{{/* The port of a database. Takes its URL. */}}
{{- define "strongroom.databasePort" -}}
{{- $authority := regexReplaceAll "^postgres(ql)?://([^@/?#]+@)?" . "" | splitList "/" | first -}}
{{- if regexMatch ":[0-9]+$" $authority }}{{ regexFind "[0-9]+$" $authority }}{{ else }}5432{{ end -}}
{{- end }}
