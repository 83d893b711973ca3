{{/* Refuses what the schema cannot see: values that contradict each other. */}}
{{- define "strongroom.validate" -}}
{{- $keys := .Values.keyService -}}
{{- $attestation := .Values.attestationService -}}
{{- $collateral := .Values.collateralService -}}
{{- $services := or $attestation.enabled $keys.enabled $collateral.enabled -}}
{{- if and (or $services (include "strongroom.simulated" .)) (not .Values.images.service) -}}
{{- fail "images.service: name the services' image by digest, REPOSITORY@sha256:…" -}}
{{- end -}}
{{- if and (or $attestation.enabled $collateral.enabled) (not .Values.roots) -}}
{{- fail "roots: no hardware vendor is trusted; `strongroom chart values` writes them" -}}
{{- end -}}
{{- $simulated := eq .Values.shape "simulated" -}}
{{- range .Values.roots -}}
{{- if ne .simulated $simulated -}}
{{- fail (printf "roots: a root says simulated: %t, and the shape is %s" .simulated $.Values.shape) -}}
{{- end -}}
{{- end -}}
{{- if and $keys.enabled $attestation.enabled (not (and $attestation.identity $attestation.identityCertificate)) -}}
{{- fail "attestationService.identity, .identityCertificate: the key service pins them; `strongroom chart values` writes them" -}}
{{- end -}}
{{- if and $keys.enabled (not $attestation.enabled) (not (mustFromJson $keys.attestationServices)) -}}
{{- fail "keyService.attestationServices: the key service believes nobody's results, and could release nothing" -}}
{{- end -}}
{{- range $key := list "attestationService" "keyService" -}}
{{- $service := index $.Values $key -}}
{{- if and $service.enabled (gt (int $service.replicas) 1) (not $service.databaseUrl) -}}
{{- fail (printf "%s.databaseUrl: several replicas share a PostgreSQL database" $key) -}}
{{- end -}}
{{- end -}}
{{- if and $keys.enabled (eq $keys.mode "attested") (not $simulated) -}}
{{- fail "keyService.mode: an attested key service runs on a platform that attests it; the chart has the simulated one alone" -}}
{{- end -}}
{{- if and $keys.enabled (eq $keys.mode "attested") (hasPrefix "file:" (include "strongroom.masterKey" .)) -}}
{{- fail "keyService.masterKey: an attested key service has no master key in a file" -}}
{{- end -}}
{{- if and $keys.enabled (hasPrefix "file:///strongroom/private/" (include "strongroom.masterKey" .)) (not $keys.filesSecret) -}}
{{- fail "keyService.filesSecret: the master key is a private file, and no Secret holds it" -}}
{{- end -}}
{{- if and $collateral.enabled $attestation.enabled (not $simulated) (not $attestation.endorsements) (not $collateral.identityCertificate) -}}
{{- fail "collateralService.identityCertificate: the attestation service pins it; `strongroom chart values --collateral` writes it" -}}
{{- end -}}
{{- if and $simulated (eq .Values.simulatedPlatform.namespace .Release.Namespace) -}}
{{- fail "simulatedPlatform.namespace: the simulated platform needs a namespace of its own" -}}
{{- end -}}
{{- range .Values.runs.namespaces -}}
{{- if or (eq . $.Release.Namespace) (eq . $.Values.simulatedPlatform.namespace) -}}
{{- fail (printf "runs.namespaces: %s is the services' or the platform's; runs have namespaces of their own" .) -}}
{{- end -}}
{{- end -}}
{{- range $namespace, $_ := .Values.runs.submitters -}}
{{- if not (has $namespace $.Values.runs.namespaces) -}}
{{- fail (printf "runs.submitters: %s is none of runs.namespaces" $namespace) -}}
{{- end -}}
{{- end -}}
{{- end }}
