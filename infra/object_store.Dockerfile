# S3 for infra/compose.yaml and infra/kubernetes: Ceph's gateway, one monitor and one OSD, by infra/s3_server.sh.
#
#   docker build -f infra/object_store.Dockerfile -t distseg-object-store:0.1.0 .
ARG BASE_IMAGE=debian:bookworm-slim

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ceph-mon ceph-osd radosgw ceph-common curl procps \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home distseg && install -d -o 1000 /state
COPY infra/process.sh infra/s3_server.sh /infra/
COPY infra/policies /infra/policies
ENV S3_STATE=/state/s3 S3_HOST=0.0.0.0
USER 1000
CMD ["/infra/s3_server.sh", "run"]
