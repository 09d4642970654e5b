#!/bin/sh
# Install the Debian packages named that are not installed yet. Asks the archive only where something is missing.
set -eu

missing=
for package in "$@"; do
	status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
	echo "these Debian packages are missing:$missing" >&2
	echo "run this as root, or: apt-get install$missing" >&2
	exit 1
fi
echo "installing Debian packages:$missing"
export DEBIAN_FRONTEND=noninteractive
# Packages with a service (clickhouse-server) are wanted for their program: nothing is to be started.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT
fi
apt-get update --quiet=2
# shellcheck disable=SC2086 # a list of words is meant
apt-get install --quiet=2 --yes --no-install-recommends $missing >/dev/null
