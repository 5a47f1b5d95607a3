#!/bin/sh
# Runs in the job object-store-setup. Every command may find its work done already.
set -eu
url="$LUNGLINE_S3_ENDPOINT"
# The credentials stand in the environment of mc, not in its arguments, which every process may read.
export MC_HOST_store="${url%%://*}://${ROOT_ACCESS}:${ROOT_SECRET}@${url#*://}"
mc ready store

for bucket in "$LUNGLINE_UPLOADS_BUCKET" "$LUNGLINE_RESULTS_BUCKET" "$LUNGLINE_MODELS_BUCKET" "$LUNGLINE_MLFLOW_BUCKET" \
    "$LUNGLINE_RESEARCH_BUCKET"; do
  mc mb --ignore-existing "store/$bucket"
  mc anonymous set none "store/$bucket"
done

for user in scanner predictor pipeline mlflow worklist reconcile; do
  sed -e "s/@UPLOADS@/$LUNGLINE_UPLOADS_BUCKET/g" -e "s/@RESULTS@/$LUNGLINE_RESULTS_BUCKET/g" \
      -e "s/@MODELS@/$LUNGLINE_MODELS_BUCKET/g" -e "s/@MLFLOW@/$LUNGLINE_MLFLOW_BUCKET/g" \
      -e "s/@RESEARCH@/$LUNGLINE_RESEARCH_BUCKET/g" -e "s/@MODEL@/$LUNGLINE_MODEL_NAME/g" "/setup/$user.json" > "/tmp/$user.json"
  mc admin policy create store "lungline-$user" "/tmp/$user.json"
  # Two lines on standard input: the access key and its secret.
  { cat "/users/$user/access"; echo; cat "/users/$user/secret"; echo; } | mc admin user add store
  access=$(cat "/users/$user/access")
  mc admin policy attach store "lungline-$user" --user "$access" > /tmp/attach 2>&1 \
    || grep -q "already in effect" /tmp/attach || { cat /tmp/attach >&2; exit 1; }
done

mc event add --ignore-existing "store/$LUNGLINE_UPLOADS_BUCKET" arn:minio:sqs::uploads:kafka --event put
mc event list "store/$LUNGLINE_UPLOADS_BUCKET"
