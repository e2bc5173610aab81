#!/usr/bin/env bash
# A run on TPU slices or GPU nodes of a Kubernetes cluster, with JobSet (kubectl) or XPK. JobSet restarts all pods when one fails, and the run
# resumes. A rerun of this script replaces the job of that name, which saves first, and resumes from the newest checkpoint.
# Usage: ./launch/gke.sh [--dry-run] [--config.FIELD=VALUE ...]      once before: docker build -f launch/Dockerfile --build-arg EXTRAS=tpu,gcs -t IMAGE . && docker push IMAGE
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/dry_run.sh

CONFIG=${CONFIG:-configs/ssv2.py:variant=B/16} # in the image, from the folder of its source
IMAGE=${IMAGE:-}   # that docker pushed, such as us-docker.pkg.dev/PROJECT/cvmae/cvmae
BUCKET=${BUCKET:-} # of Cloud Storage, for the workdir; pods read and write it as the service account of theirs that may
CLAIM=${CLAIM-cvmae} # without BUCKET: a PersistentVolumeClaim that all pods can write, such as Filestore, mounted at /data
if [[ -n $BUCKET ]]; then root=gs://$BUCKET; else root=/data; fi
WORKDIR=${WORKDIR:-$root/workdir/ssv2}
CACHE=${CACHE:-${WORKDIR%/*}/.compiled} # of compiled programs
NAME=${NAME:-cvmae} # of the job
BY=${BY:-jobset} # jobset (kubectl) | xpk
RESTARTS=${RESTARTS:-20}
SLICES=${SLICES:-1} # TPU: number of slices, each of NODES hosts, or of TYPE
TPU=${TPU-tpu-v5-lite-podslice} # jobset: cloud.google.com/gke-tpu-accelerator; empty for GPUs
TOPOLOGY=${TOPOLOGY:-4x4} # jobset: cloud.google.com/gke-tpu-topology, whose chips are NODES x CHIPS
GPU=${GPU:-nvidia-h100-80gb} # jobset: cloud.google.com/gke-accelerator
NODES=${NODES:-4} # jobset: hosts
CHIPS=${CHIPS:-4} # jobset: TPU chips or GPUs of a host
CLUSTER=${CLUSTER:-cvmae} # xpk
TYPE=${TYPE:-v5litepod-16} # xpk: --tpu-type

[[ $CONFIG != "$PWD"/* ]] || wrong "CONFIG is $CONFIG, and the image has the source in another folder: give it relative to that of the source"
[[ $BUCKET != */* ]] || wrong "BUCKET is $BUCKET: give the name alone"
choice BY jobset xpk
whole_numbers 0 RESTARTS
whole_numbers 1 SLICES NODES CHIPS
own_fields "$@"
[[ -n $IMAGE ]] || wrong "IMAGE is not set: build and push one (see --help), and give its name"
if [[ $BY == xpk ]]; then unread "BY=xpk" TPU TOPOLOGY GPU NODES CHIPS CLAIM; else unread "BY=jobset" TYPE CLUSTER; fi
if [[ $WORKDIR != *://* ]] && [[ $BY == xpk || -z $CLAIM || $WORKDIR != /data/* ]]; then
  wrong "WORKDIR is $WORKDIR, which a restarted pod would not have: give BUCKET=NAME, or with jobset CLAIM=NAME and a folder in /data"
fi
[[ $TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*)*$ ]] || wrong "TOPOLOGY is ${TOPOLOGY@Q}: expected numbers of chips, such as 4x4"
if [[ $BY == jobset && -n $TPU ]] && ((${TOPOLOGY//x/ * } != NODES * CHIPS)); then
  wrong "TOPOLOGY is $TOPOLOGY, and NODES * CHIPS is $NODES * $CHIPS: give as many chips in both"
fi

# A restarted pod has a new home folder, and would compile for minutes again: https://docs.jax.dev/en/latest/persistent_compilation_cache.html
environment=(JAX_COMPILATION_CACHE_DIR="$CACHE")
if [[ -z $TPU ]]; then
  source launch/gpu_environment.sh
  environment+=("${gpu_environment[@]}")
fi
main=(env "${environment[@]}" python -m cvmae.main --config="$CONFIG" --workdir="$WORKDIR" "$@")
if [[ $BY == xpk ]]; then
  run xpk workload delete --cluster="$CLUSTER" --workload="$NAME" --force || true # there may be no such job
  run xpk workload create --cluster="$CLUSTER" --workload="$NAME" --tpu-type="$TYPE" --num-slices="$SLICES" \
    --docker-image="$IMAGE" --max-restarts="$RESTARTS" --command="$(quoted "${main[@]}")"
  exit
fi

json() { # WORDS...: prints them as a JSON list, with $(NAME) escaped, which Kubernetes would replace
  # shellcheck disable=SC2016
  python3 -c 'import json, sys; print(json.dumps([word.replace("$(", "$$(") for word in sys.argv[1:]]))' "$@"
}

if [[ -n $TPU ]]; then
  selector="{cloud.google.com/gke-tpu-accelerator: $TPU, cloud.google.com/gke-tpu-topology: $TOPOLOGY}"
  resource=google.com/tpu
  words=$(json "${main[@]}")
else # on GPU nodes the environment does not name the other processes
  selector="{cloud.google.com/gke-accelerator: $GPU}"
  resource=nvidia.com/gpu
  words=$(json "${main[@]}" --coordinator="$NAME-run-0-0.$NAME:8476" --processes="$NODES")
  words="${words%]}, \"--process=\$(JOB_COMPLETION_INDEX)\"]"
fi

mounts="{name: shm, mountPath: /dev/shm}"
volumes="{name: shm, emptyDir: {medium: Memory}}"
if [[ $WORKDIR != *://* ]]; then
  mounts+=", {name: data, mountPath: /data}"
  volumes+=", {name: data, persistentVolumeClaim: {claimName: $CLAIM}}"
fi

manifest() { # NAME: prints the job of that name
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $1
  annotations: {alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool}
spec:
  failurePolicy: {maxRestarts: $RESTARTS}
  replicatedJobs:
  - name: run
    replicas: $SLICES
    template:
      spec:
        parallelism: $NODES
        completions: $NODES
        completionMode: Indexed
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 300
            nodeSelector: $selector
            containers:
            - name: cvmae
              image: $IMAGE
              command: $words
              ports: [{containerPort: 8476}]
              resources: {limits: {$resource: $CHIPS}}
              volumeMounts: [$mounts]
            volumes: [$volumes]
YAML
}
# The cluster checks the new job, under another name, before the one of this name is deleted.
run kubectl create --dry-run=server -f - <<<"$(manifest "$NAME-new")" >&2
run kubectl delete jobset "$NAME" --ignore-not-found
manifest "$NAME"
run kubectl apply -f - <<<"$(manifest "$NAME")"
