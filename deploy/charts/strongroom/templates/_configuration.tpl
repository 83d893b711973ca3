{{/*
The services' configuration files. They are the JSON documents that the services read; keys and what else an owner says
come as JSON texts and are put in as they are read: nothing of them passes through YAML.
*/}}

{{- define "strongroom.people" -}}
{{- $owners := list -}}
{{- range .Values.owners }}{{ $owners = append $owners (mustFromJson .) }}{{ end -}}
{{- dict "owners" $owners "people" (mustFromJson .Values.people) "issuers" (mustFromJson .Values.issuers) | toJson -}}
{{- end }}

{{- define "strongroom.roots" -}}
{{- $roots := list -}}
{{- range .Values.roots }}{{ $roots = append $roots (dict "certificate_pem" .certificatePem "simulated" .simulated) }}{{ end -}}
{{- toJson $roots -}}
{{- end }}

{{/* The platform that a service runs on itself, as JSON. */}}
{{- define "strongroom.platform" -}}
{{- if include "strongroom.simulated" . -}}
{{- dict "socket" "/strongroom/platform/platform.sock" "endorsements" "/strongroom/platform/endorsements" | toJson -}}
{{- else -}}
null
{{- end -}}
{{- end }}

{{/* Where documents come from that are not the simulated platform's: the vendors' servers, or somebody who speaks as they do. */}}
{{- define "strongroom.cache" -}}
{{- dict "kind" "cache" "folder" "/var/lib/strongroom/state/endorsements" "pcs" (index . 0) "kds" (index . 1) | toJson -}}
{{- end }}

{{- define "strongroom.vendors" -}}
{{- include "strongroom.cache" (list (dict "url" "https://api.trustedservices.intel.com") (dict "url" "https://kdsintf.amd.com")) -}}
{{- end }}

{{- define "strongroom.simulatedEndorsements" -}}
{{- dict "kind" "folder" "path" "/strongroom/platform/endorsements" | toJson -}}
{{- end }}

{{- define "strongroom.attestationEndorsements" -}}
{{- $collateral := .Values.collateralService -}}
{{- if .Values.attestationService.endorsements -}}
{{ .Values.attestationService.endorsements }}
{{- else if include "strongroom.simulated" . -}}
{{ include "strongroom.simulatedEndorsements" . }}
{{- else if $collateral.enabled -}}
{{- $server := dict "url" (include "strongroom.url" (list . $collateral "collateral-service")) "certificate_pem" $collateral.identityCertificate -}}
{{ include "strongroom.cache" (list $server $server) }}
{{- else -}}
{{ include "strongroom.vendors" . }}
{{- end -}}
{{- end }}

{{- define "strongroom.collateralEndorsements" -}}
{{- if .Values.collateralService.endorsements -}}
{{ .Values.collateralService.endorsements }}
{{- else if include "strongroom.simulated" . -}}
{{ include "strongroom.simulatedEndorsements" . }}
{{- else -}}
{{ include "strongroom.vendors" . }}
{{- end -}}
{{- end }}

{{/* What every service's configuration begins with, as JSON. Takes [root, the service's values, its name]. */}}
{{- define "strongroom.listening" -}}
{{- $names := include "strongroom.names" . | mustFromJson -}}
{{- dict "version" 1 "url" (include "strongroom.url" .) "host" "0.0.0.0" "port" 8443 "names" $names "state" "/var/lib/strongroom/state" | toJson -}}
{{- end }}

{{- define "strongroom.attestationServiceConfiguration" -}}
{{- $values := .Values.attestationService -}}
{{- $config := include "strongroom.listening" (list . $values "attestation-service") | mustFromJson -}}
{{- $config = merge $config (include "strongroom.people" . | mustFromJson) -}}
{{- if $values.databaseUrl }}{{ $_ := set $config "state_database" $values.databaseUrl }}{{ end -}}
{{- $_ := set $config "mode" "owner-operated" -}}
{{- $_ := set $config "policy_management" $values.policyManagement -}}
{{- $_ := set $config "roots" (include "strongroom.roots" . | mustFromJson) -}}
{{- $_ := set $config "endorsements" (include "strongroom.attestationEndorsements" . | mustFromJson) -}}
{{- $_ := set $config "platform" (include "strongroom.platform" . | mustFromJson) -}}
{{- $_ := set $config "signing_key_max_age_days" (int $values.signingKeyMaxAgeDays) -}}
{{- $_ := set $config "limits" (mustFromJson $values.limits) -}}
{{- toPrettyJson $config -}}
{{- end }}

{{- define "strongroom.keyServiceConfiguration" -}}
{{- $values := .Values.keyService -}}
{{- $attestation := .Values.attestationService -}}
{{- $believed := list -}}
{{- if $attestation.enabled -}}
{{- $url := include "strongroom.url" (list . $attestation "attestation-service") -}}
{{- $believed = append $believed (dict "url" $url "identity" $attestation.identity "certificate_pem" $attestation.identityCertificate) -}}
{{- end -}}
{{- $config := include "strongroom.listening" (list . $values "key-service") | mustFromJson -}}
{{- $config = merge $config (include "strongroom.people" . | mustFromJson) -}}
{{- if $values.databaseUrl }}{{ $_ := set $config "state_database" $values.databaseUrl }}{{ end -}}
{{- $_ := set $config "master_key" (include "strongroom.masterKey" .) -}}
{{- $_ := set $config "attestation_services" (concat $believed (mustFromJson $values.attestationServices)) -}}
{{- with mustFromJson $values.workloadIssuers }}{{ $_ := set $config "workload_issuers" . }}{{ end -}}
{{- $_ := set $config "mode" $values.mode -}}
{{- $_ := set $config "hardware" (ternary "simulated" "real" (eq .Values.shape "simulated")) -}}
{{- $_ := set $config "platform" (include "strongroom.platform" . | mustFromJson) -}}
{{- $_ := set $config "recoverable_days" (int $values.recoverableDays) -}}
{{- $_ := set $config "purge_protection" $values.purgeProtection -}}
{{- $_ := set $config "witnesses" (mustFromJson $values.witnesses) -}}
{{- $_ := set $config "witnesses_required" (int $values.witnessesRequired) -}}
{{- $_ := set $config "witness_patience_s" (int $values.witnessPatienceS) -}}
{{- toPrettyJson $config -}}
{{- end }}

{{- define "strongroom.collateralServiceConfiguration" -}}
{{- $values := .Values.collateralService -}}
{{- $config := include "strongroom.listening" (list . $values "collateral-service") | mustFromJson -}}
{{- $_ := set $config "roots" (include "strongroom.roots" . | mustFromJson) -}}
{{- $_ := set $config "endorsements" (include "strongroom.collateralEndorsements" . | mustFromJson) -}}
{{- $_ := set $config "families" (mustFromJson $values.families) -}}
{{- $_ := set $config "products" (mustFromJson $values.products) -}}
{{- toPrettyJson $config -}}
{{- end }}
