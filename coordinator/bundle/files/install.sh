#!/bin/sh
# Installs the tunefarm agent of this bundle, or upgrades it: ./install.sh [HOST:PORT]
# HOST:PORT is where the coordinator listens for other machines, its port 7412.
# With DESTDIR, everything goes below that folder, and no service is touched.
set -eu
cd "$(dirname "$0")"

fail() {
  echo "install.sh: $1" >&2
  exit 2
}

root=${DESTDIR:-}
prefix=$root/opt/tunefarm
etc=$root/etc/tunefarm
architecture=$(cat ARCHITECTURE)

[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "run it as root: sudo ./install.sh"
[ "$(uname -m)" = "$architecture" ] ||
  fail "this bundle is for $architecture, and this machine is $(uname -m): tunefarm agent bundle --arch $(uname -m)"
sha256sum --quiet --check SHA256SUMS || fail "the bundle is damaged: copy it again"

python=
for candidate in python3.11 python3; do
  if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 11) or sys.maxsize < 2**32)' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || fail "there is no 64-bit Python 3.11 with venv, as Raspberry Pi OS 12 (bookworm) has it"

"$python" -m venv --without-pip "$prefix"
set -- "${1:-}" installer/pip-*.whl # a wheel runs as it is
"$prefix/bin/python" "$2/pip" install --quiet --disable-pip-version-check --isolated \
  --no-index --no-deps --force-reinstall --root-user-action=ignore wheels/*.whl
install -m 644 lib/libtvm_runtime.so "$prefix/lib/libtvm_runtime.so"

install -D -m 644 systemd/tunefarm-agent.service "$root/etc/systemd/system/tunefarm-agent.service"
install -D -m 644 systemd/tunefarm.sysusers "$root/etc/sysusers.d/tunefarm.conf"
install -D -m 644 systemd/tunefarm.tmpfiles "$root/etc/tmpfiles.d/tunefarm.conf"
if [ -e /dev/vcio ]; then # vcgencmd asks the firmware through it, and it is the group's
  install -d "$root/etc/systemd/system/tunefarm-agent.service.d"
  printf '[Service]\nSupplementaryGroups=video\n' >"$root/etc/systemd/system/tunefarm-agent.service.d/raspberry-pi.conf"
fi
install -d -m 755 "$etc"
if [ -n "$1" ] && ! [ -e "$etc/agent.env" ]; then
  echo "TUNEFARM_COORDINATOR=$1" >"$etc/agent.env"
fi
[ -z "$root" ] || exit 0

systemd-sysusers
systemd-tmpfiles --create
systemctl daemon-reload
systemctl try-restart tunefarm-agent
if [ ! -e /var/lib/tunefarm-agent/agent.pem ]; then
  echo "Installed. What is left, with a token of \`tunefarm ca token $(hostname) --role agent\`:"
  [ -e "$etc/agent.env" ] || echo "  echo TUNEFARM_COORDINATOR=HOST:7412 > $etc/agent.env"
  echo "  setpriv --reuid tunefarm-agent --clear-groups $prefix/bin/tunefarm agent enroll \\"
  echo "    --coordinator HOST:7413 --credentials /var/lib/tunefarm-agent/agent.pem"
  echo "  systemctl enable --now tunefarm-agent"
fi
