#!/usr/bin/env bash
# One training run on every host of a TPU VM slice, started from anywhere with gcloud:
#
#     launch/tpu_vm.sh NAME ZONE CONFIG [--config.key=value ...]
#     launch/tpu_vm.sh my-v5p-64 us-east5-a configs/toy/sft.py --config.run_dir=/mnt/runs/first
#
# Every host runs `python -m mirothinker_jax.train --config CONFIG ...` with JAX_DISTRIBUTED=1, which makes the
# hosts find each other by the slice's own metadata. Only environment is set here, never a setting of the run.
#
#     FOLDER=DIR        where to start on the hosts (default: the checkout mirothinker-jax in the user's home, if it is
#                       there, else the home: an installed wheel needs no checkout)
#     PYTHON=FILE       the interpreter on the hosts (default: python3)
#     PROJECT=ID        the Google Cloud project (default: gcloud's own)
#
# CONFIG is a file on the hosts, or the name of a config that comes with the package, such as toy/sft.
#
# Once per slice, the package must be installed on every host, from a checkout or a wheel:
#
#     gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker=all --command \
#       'git clone URL mirothinker-jax && pip install -e "mirothinker-jax[tpu]"'
#
# config.run_dir must be on a file system that all hosts mount (Filestore, or a bucket by Cloud Storage FUSE):
# checkpoints are written by all of them. The same command resumes a run. A host that fails ends the others:
# jax's coordination service misses it after a while.
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "usage: launch/tpu_vm.sh NAME ZONE CONFIG [--config.key=value ...]" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
printf -v train '%q ' "${PYTHON:-python3}" -m mirothinker_jax.train --config "$@"
start="if [ -d mirothinker-jax ]; then cd mirothinker-jax; fi"
if [ -n "${FOLDER:-}" ]; then printf -v start 'cd %q' "$FOLDER"; fi

# The compiler's flags depend on the chip (mirothinker_jax/parallel/tpu_flags.py), which the machine knows.
metadata=http://metadata.google.internal/computeMetadata/v1/instance/attributes/accelerator-type
kind="\$(curl -sf -H Metadata-Flavor:Google $metadata)"

exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" ${PROJECT:+--project "$PROJECT"} --worker=all \
  --command "$start && ACCELERATOR_TYPE=$kind JAX_DISTRIBUTED=1 $train"
