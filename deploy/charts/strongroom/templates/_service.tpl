{{/*
Everything of one service: account, configuration, address, disruption budget, volume, processes.

Takes a dictionary: root, name, values, configuration (JSON text), replicas, volume (whether it has one), identity (whether
its Secret is mounted), files (the Secret of further files, or nothing), platform (whether it runs on the simulated one),
locked (whether it may wait for people after a start).
*/}}
{{- define "strongroom.service" -}}
{{- $root := .root -}}
{{- $name := .name -}}
{{- $values := .values -}}
{{- $labels := include "strongroom.labels" (list $root $name) -}}
{{- $selector := include "strongroom.selector" $name -}}
{{- $security := include "strongroom.containerSecurity" . -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  labels:
    {{- $labels | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  labels:
    {{- $labels | nindent 4 }}
data:
  config.json: |
    {{- .configuration | nindent 4 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels:
    {{- $labels | nindent 4 }}
spec:
  type: ClusterIP
  {{- if .locked }}
  publishNotReadyAddresses: true
  {{- end }}
  selector:
    {{- $selector | nindent 4 }}
  ports:
    - name: https
      port: 8443
      targetPort: https
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  labels:
    {{- $labels | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- $selector | nindent 6 }}
{{- if and .volume (not $values.persistence.existingClaim) }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "strongroom.claim" (list $values $name) }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    # The keys are on it: neither `helm uninstall` nor an upgrade that leaves the service out deletes it.
    helm.sh/resource-policy: keep
spec:
  accessModes:
    - ReadWriteOnce
  {{- if kindIs "string" $values.persistence.storageClass }}
  storageClassName: {{ $values.persistence.storageClass | quote }}
  {{- end }}
  resources:
    requests:
      storage: {{ $values.persistence.size }}
{{- end }}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ $name }}
  labels:
    {{- $labels | nindent 4 }}
spec:
  serviceName: {{ $name }}
  replicas: {{ int .replicas }}
  podManagementPolicy: Parallel
  selector:
    matchLabels:
      {{- $selector | nindent 6 }}
  template:
    metadata:
      labels:
        {{- $selector | nindent 8 }}
      annotations:
        # The service reads its configuration once: another one needs another process.
        strongroom.configuration: {{ sha256sum .configuration | quote }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with $root.Values.images.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if gt (int .replicas) 1 }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- $selector | nindent 14 }}
      {{- end }}
      terminationGracePeriodSeconds: 30
      securityContext:
        runAsNonRoot: true
        runAsUser: 1000
        runAsGroup: 1000
        fsGroup: 1000
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile:
          type: RuntimeDefault
      initContainers:
        # Private files become files of the service's own user: Kubernetes mounts them as links that a group may read.
        - name: provision
          image: {{ $root.Values.images.service }}
          imagePullPolicy: {{ $root.Values.images.pullPolicy }}
          command:
            - strongroom
            - provision
            - --state=/var/lib/strongroom/state
            {{- if .identity }}
            - --identity=/strongroom/identity
            {{- end }}
            {{- if .files }}
            - --files=/strongroom/files
            - --into=/strongroom/private
            {{- end }}
            {{- if .platform }}
            - --wait-for=/strongroom/platform/platform.sock
            {{- end }}
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          securityContext:
            {{- $security | nindent 12 }}
          volumeMounts:
            - name: state
              mountPath: /var/lib/strongroom
            - name: temporary
              mountPath: /tmp
            {{- if .identity }}
            - name: identity
              mountPath: /strongroom/identity
              readOnly: true
            {{- end }}
            {{- if .files }}
            - name: files
              mountPath: /strongroom/files
              readOnly: true
            - name: private
              mountPath: /strongroom/private
            {{- end }}
            {{- if .platform }}
            - name: platform
              mountPath: /strongroom/platform
              readOnly: true
            {{- end }}
      containers:
        - name: {{ $name }}
          image: {{ $root.Values.images.service }}
          imagePullPolicy: {{ $root.Values.images.pullPolicy }}
          command:
            - strongroom
            - {{ $name }}
            - --config=/strongroom/configuration/config.json
          ports:
            - name: https
              containerPort: 8443
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          securityContext:
            {{- $security | nindent 12 }}
          {{- if .locked }}
          # Until enough custodians gave their shares it answers 503 everywhere: that is no reason to end it.
          startupProbe:
            tcpSocket:
              port: https
            periodSeconds: 1
            failureThreshold: 180
          livenessProbe:
            tcpSocket:
              port: https
            periodSeconds: 20
            timeoutSeconds: 5
          {{- else }}
          startupProbe:
            httpGet:
              path: /healthz
              port: https
              scheme: HTTPS
            periodSeconds: 1
            failureThreshold: 180
          livenessProbe:
            httpGet:
              path: /healthz
              port: https
              scheme: HTTPS
            periodSeconds: 20
            timeoutSeconds: 5
          {{- end }}
          readinessProbe:
            httpGet:
              path: /readyz
              port: https
              scheme: HTTPS
            periodSeconds: 5
            timeoutSeconds: 5
          volumeMounts:
            - name: configuration
              mountPath: /strongroom/configuration
              readOnly: true
            - name: state
              mountPath: /var/lib/strongroom
            - name: temporary
              mountPath: /tmp
            {{- if .files }}
            - name: private
              mountPath: /strongroom/private
              readOnly: true
            {{- end }}
            {{- if .platform }}
            - name: platform
              mountPath: /strongroom/platform
              readOnly: true
            {{- end }}
      volumes:
        - name: configuration
          configMap:
            name: {{ $name }}
        - name: state
          {{- if .volume }}
          persistentVolumeClaim:
            claimName: {{ include "strongroom.claim" (list $values $name) }}
          {{- else }}
          emptyDir:
            medium: Memory
            sizeLimit: 64Mi
          {{- end }}
        - name: temporary
          emptyDir:
            sizeLimit: 64Mi
        {{- if .identity }}
        - name: identity
          secret:
            secretName: {{ $values.identitySecret }}
            defaultMode: 0440
            {{- if .volume }}
            optional: true
            {{- end }}
        {{- end }}
        {{- if .files }}
        - name: files
          secret:
            secretName: {{ .files }}
            defaultMode: 0440
        - name: private
          emptyDir:
            medium: Memory
            sizeLimit: 1Mi
        {{- end }}
        {{- if .platform }}
        - name: platform
          persistentVolumeClaim:
            claimName: simulated-platform
            readOnly: true
        {{- end }}
{{- end }}

{{- define "strongroom.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
{{- end }}
