# MLflow for infra/compose.yaml and infra/kubernetes, by infra/mlflow_server.sh, of the versions in constraints.txt.
#
#   docker build -f infra/mlflow.Dockerfile -t distseg-mlflow:0.1.0 .
ARG BASE_IMAGE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends curl procps \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home distseg && install -d -o 1000 /state
COPY constraints.txt /build/
# hadolint ignore=DL3013
RUN python -m venv /venv && /venv/bin/pip install --constraint /build/constraints.txt "mlflow[auth]" psycopg2-binary boto3
COPY infra/process.sh infra/mlflow_server.sh /infra/
ENV PYTHON=/venv/bin/python MLFLOW_STATE=/state/mlflow MLFLOW_HOST=0.0.0.0 PYTHONUNBUFFERED=1
USER 1000
CMD ["/infra/mlflow_server.sh", "run"]
