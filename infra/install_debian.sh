#!/usr/bin/env bash
# Installs with apt what the scripts of this folder, cluster/local_*.sh and the browser test start, on Debian or Ubuntu
# (whose chromium is a snap). Needs root.
# Run it again at will: what is already there is left alone.
set -euo pipefail

packages=(
  ceph-mon ceph-osd radosgw ceph-common   # infra/s3_server.sh
  postgresql                              # infra/postgres.sh
  prometheus                              # infra/prometheus.sh
  docker-compose                          # validates infra/compose.yaml in a test
  iproute2 openssh-server rsync iptables  # cluster/local_hosts.sh, for HOSTS_SSH and HOSTS_INTERNET too
  slurm-wlm munge                         # cluster/local_slurm.sh
  chromium                                # tests/integration/test_browser.py
  curl procps util-linux                  # health checks, process control, runuser
)

installed() { [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=()
for package in "${packages[@]}"; do installed "$package" || missing+=("$package"); done
if [ ${#missing[@]} = 0 ]; then echo "nothing to install: all of ${packages[*]} are there"; exit 0; fi
[ "$(id -u)" = 0 ] || { echo "install_debian.sh: installing ${missing[*]} needs root; run it with sudo" >&2; exit 1; }

echo "installing: ${missing[*]}"
# The distribution would start its own services on the default ports; ours are started by hand, with their own state.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# A machine that has just booted may be updating itself, and two cannot install at a time.
apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
echo "installed: ${missing[*]}"
