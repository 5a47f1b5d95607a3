#!/bin/sh
# Runs in the job object-store-setup, any number of times. It uses mc and shell builtins only: the image has little else.
set -eu
url="$LUNGLINE_S3_ENDPOINT"
# Credentials are in the environment and on standard input, not in arguments, which every process can read.
export MC_HOST_store="${url%%://*}://${ROOT_ACCESS}:${ROOT_SECRET}@${url#*://}"
mc ready store

for bucket in "$LUNGLINE_UPLOADS_BUCKET" "$LUNGLINE_RESULTS_BUCKET" "$LUNGLINE_MODELS_BUCKET" "$LUNGLINE_MLFLOW_BUCKET" \
    "$LUNGLINE_RESEARCH_BUCKET" "$LUNGLINE_PATIENTS_BUCKET"; do
  mc mb --ignore-existing "store/$bucket"
  mc anonymous set none "store/$bucket"
done

# What the pipeline overwrites, which no policy can forbid, stays as an earlier version; its key may not delete any.
mc version enable "store/$LUNGLINE_MODELS_BUCKET"

for user in scanner predictor pipeline mlflow worklist reconcile retention; do
  # `read` returns 1 for a file without a final newline, such as a secret's.
  read -r access < "$USERS/$user/access" || test -n "$access"
  read -r secret < "$USERS/$user/secret" || test -n "$secret"
  mc admin policy create store "lungline-$user" "$SETUP/$user.json"
  printf '%s\n%s\n' "$access" "$secret" | mc admin user add store
  if ! said=$(mc admin policy attach store "lungline-$user" --user "$access" 2>&1); then
    case "$said" in
      *"already in effect"*) ;;
      *) echo "$said" >&2; exit 1 ;;
    esac
  fi
done

# MinIO stores the address with its region: without the region, the second run would add the same queue once more.
mc event add --ignore-existing "store/$LUNGLINE_UPLOADS_BUCKET" "arn:minio:sqs:${LUNGLINE_S3_REGION}:uploads:kafka" --event put
mc event list "store/$LUNGLINE_UPLOADS_BUCKET"
