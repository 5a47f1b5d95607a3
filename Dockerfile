# syntax=docker/dockerfile:1
# The images of the cluster, one target each:
#
#   predictor   LiteRT and KServe; no TensorFlow          docker build --target predictor -t ghcr.io/lungline/predictor:0.1.0 .
#   worklist    the page for readers                      docker build --target worklist  -t ghcr.io/lungline/worklist:0.1.0 .
#   pipeline    every step of the training pipeline,      docker build --target pipeline  -t ghcr.io/lungline/pipeline-python:0.1.0 .
#               and the MLflow server (the same version)
#   tools       pipeline + the Kafka client: reconcile,   docker build --target tools     -t ghcr.io/lungline/tools-python:0.1.0 .
#               replay, and the bridge of SeaweedFS
#
# Dependencies come from requirements/, with hashes and as wheels only, so nothing is compiled and no image contains a
# compiler. All run as user 65532 and write only to /tmp and volumes.

# The digest is that of the index of all platforms; the tag beside it is for people and for Dependabot.
ARG PYTHON=docker.io/library/python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

# ----------------------------------------------------------------------------------------------------------- build
FROM ${PYTHON} AS build
WORKDIR /source
COPY requirements/ requirements/
# uv, which wrote the locks, and hatchling with its dependencies, from the same locks: this environment is discarded, but
# its hashes are checked too.
RUN awk '/^[^ ]/ { wanted = /^(uv|hatchling|packaging|pathspec|pluggy|trove-classifiers)==/ } wanted' \
      requirements/*.txt > build.txt \
 && python -m venv /build \
 && /build/bin/python -m pip install --no-cache-dir --require-hashes --only-binary :all: --no-deps -r build.txt \
 && /build/bin/uv venv --no-cache --python /usr/local/bin/python /opt/lungline
ENV PATH=/build/bin:$PATH \
    VIRTUAL_ENV=/opt/lungline \
    UV_NO_CACHE=1 \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    UV_PYTHON_DOWNLOADS=never

# ------------------------------------------------------------------------------------ one environment for each image
# Dependencies first, our code last: a change of the code costs one small layer.
FROM build AS wheel
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel .

FROM build AS predictor-environment
RUN uv pip install --require-hashes --no-build -r requirements/serving.txt
COPY --from=wheel /wheel/ /wheel/
RUN uv pip install --no-deps --no-index /wheel/*.whl

FROM build AS worklist-environment
RUN uv pip install --require-hashes --no-build -r requirements/worklist.txt
COPY --from=wheel /wheel/ /wheel/
RUN uv pip install --no-deps --no-index /wheel/*.whl

FROM build AS pipeline-environment
# Only kfp-server-api has no wheel: it is built (pure Python) with the setuptools of the lock.
RUN awk '/^[^ ]/ { wanted = /^(setuptools|wheel|packaging)==/ } wanted' requirements/*.txt > build.txt \
 && uv pip install --require-hashes --no-build --no-deps -r build.txt \
 && uv pip install --require-hashes --only-binary :all: --no-binary kfp-server-api \
      --no-build-isolation-package kfp-server-api -r requirements/pipeline.txt
# The MLflow server of the cluster runs in this image and needs PostgreSQL's driver, from the worklist's lock.
RUN awk '/^[^ ]/ { wanted = /^psycopg(-binary)?==/ } wanted' requirements/worklist.txt > driver.txt \
 && uv pip install --require-hashes --no-build --no-deps -r driver.txt
COPY --from=wheel /wheel/ /wheel/
RUN uv pip install --no-deps --no-index /wheel/*.whl

FROM pipeline-environment AS tools-environment
RUN uv pip install --require-hashes --only-binary :all: --no-binary kfp-server-api \
      --no-build-isolation-package kfp-server-api -r requirements/laptop.txt

# ------------------------------------------------------------------------------------------------- common runtime
FROM ${PYTHON} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="Lungline" \
      org.opencontainers.image.description="Findings in chest X-rays; research use, not a medical device" \
      org.opencontainers.image.source="https://github.com/lungline/lungline" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11.14-slim-bookworm" \
      org.opencontainers.image.base.digest="sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d"
# HOME and LOGNAME: the user has no entry in /etc/passwd, and some libraries need a cache folder or a user name.
# PYTHONDONTWRITEBYTECODE: the byte code exists already, and the root file system may be read-only.
ENV PATH=/opt/lungline/bin:$PATH \
    HOME=/tmp \
    LOGNAME=lungline \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1
WORKDIR /tmp
USER 65532:65532

FROM runtime AS predictor
LABEL org.opencontainers.image.title="Lungline predictor"
COPY --from=predictor-environment /opt/lungline /opt/lungline
EXPOSE 8080
ENTRYPOINT ["python", "-m", "serving"]
CMD ["--http_host=0.0.0.0", "--http_port=8080", "--model_dir=/mnt/models"]

FROM runtime AS worklist
LABEL org.opencontainers.image.title="Lungline worklist"
COPY --from=worklist-environment /opt/lungline /opt/lungline
EXPOSE 8900
ENTRYPOINT ["python", "-m", "worklist"]
CMD ["--host=0.0.0.0", "--http_port=8900"]

FROM runtime AS tools
LABEL org.opencontainers.image.title="Lungline tools"
ENV TF_CPP_MIN_LOG_LEVEL=2
COPY --from=tools-environment /opt/lungline /opt/lungline
# The command is the argument: reconcile, replay, promote ...
ENTRYPOINT ["lungline"]
CMD ["--help"]

# The last stage is the default of `docker build .`. Kubeflow sets the command, so it has no entry point.
FROM runtime AS pipeline
LABEL org.opencontainers.image.title="Lungline pipeline"
ENV TF_CPP_MIN_LOG_LEVEL=2
COPY --from=pipeline-environment /opt/lungline /opt/lungline
CMD ["lungline", "--help"]
