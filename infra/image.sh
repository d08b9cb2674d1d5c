#!/usr/bin/env bash
# Builds infra/Dockerfile without a daemon and without a container registry: with buildah, on a Debian that mmdebstrap
# makes. Needs root, buildah and mmdebstrap. With torch for CUDA the image has 7 GB, and its build, in ten minutes on two
# busy cores, needed 24 GB of disk for a while: buildah copies a layer thrice.
#
#   infra/image.sh build            the image, from what is in this clone
#   infra/image.sh run COMMAND …    in a container of it, as its user
#   infra/image.sh export FILE      as an archive of Docker's, for `docker load` or `kind load image-archive`
#   infra/image.sh remove           image, base and all layers
#
#   IMAGE_STATE   base, layers, what buildah copies    ${TMPDIR:-/tmp}/distseg-image
#   IMAGE         name of the image          distseg:0.1.0
#   BASE_IMAGE    instead of the Debian that is made here
#   TORCH_INDEX   as in the Dockerfile
#   DOCKERFILE    instead of infra/Dockerfile: one of infra's others, with an IMAGE of its own
#   PIP_CONFIG_FILE, IMAGE_MOUNTS    for the build only: pip's configuration, and the folders that it names; the image
#                                    keeps empty folders of their names, and an empty /etc/pip.conf
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/process.sh"

state=$(realpath -m "${IMAGE_STATE:-${TMPDIR:-/tmp}/distseg-image}") image=${IMAGE:-distseg:0.1.0}
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
base=distseg-base

# The temporary files too: two copies of a layer, which /var/tmp may have no room for.
images() { mkdir -p "$state/tmp" && TMPDIR="$state/tmp" buildah --root "$state/layers" --runroot "$state/run" "$@"; }

make_base() {
  local container
  command -v mmdebstrap >/dev/null || fail "mmdebstrap is not installed; install it, or set BASE_IMAGE"
  [ -s "$state/base.tar" ] ||
    mmdebstrap --quiet --variant=minbase --include=python3-venv,python-is-python3,ca-certificates,procps,iproute2 \
      bookworm "$state/base.tar"
  container=$(images from scratch)
  images add --quiet "$container" "$state/base.tar" / >/dev/null
  images commit --quiet --rm "$container" "$base" >/dev/null
}

build() {
  local mounts=() mount
  [ "$(id -u)" = 0 ] || fail "it needs root"
  command -v buildah >/dev/null || fail "buildah is not installed"
  claim_state "$state"
  [ -n "${BASE_IMAGE:-}" ] || images inspect "$base" >/dev/null 2>&1 || make_base
  for mount in ${IMAGE_MOUNTS:-}; do mounts+=(--volume "$mount:$mount:ro"); done
  if [ -n "${PIP_CONFIG_FILE:-}" ]; then mounts+=(--volume "$PIP_CONFIG_FILE:/etc/pip.conf:ro"); fi
  images build --layers --isolation chroot --network host "${mounts[@]}" --build-arg "BASE_IMAGE=${BASE_IMAGE:-localhost/$base}" \
    --build-arg "TORCH_INDEX=${TORCH_INDEX:-}" --file "${DOCKERFILE:-$repository/infra/Dockerfile}" --tag "$image" "$repository"
}

run() {
  local container code=0
  container=$(images from "$image")
  images run --isolation chroot --network host "$container" -- "$@" || code=$?
  images rm "$container" >/dev/null
  return "$code"
}

remove() {
  [ -e "$state/.distseg-state" ] || { wipe_state "$state"; return; }
  images rm --all >/dev/null
  images rmi --all --force >/dev/null
  umount "$state/layers/overlay" 2>/dev/null || true
  wipe_state "$state"
}

needs_image() { [ -e "$state/.distseg-state" ] || fail "nothing is built in $state; infra/image.sh build"; }

case "${1:-}" in
  build | remove) "$1" ;;
  run) [ $# -ge 2 ] || fail "run COMMAND …: which command?"; needs_image; run "${@:2}" ;;
  export) [ $# = 2 ] || fail "export FILE: which file?"; needs_image; images push --quiet "$image" "docker-archive:$2:$image" ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
