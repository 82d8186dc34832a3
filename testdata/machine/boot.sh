# Boots the machine in $1, an empty directory next to "files", in a mount namespace of its own; ends with the machine.
# SIGTERM ends it at once. What it mounts ends with it, and it removes its control groups.
set -eu

mount -t cgroup2 cgroup2 /sys/fs/cgroup # machines with version 1 have it elsewhere, or not at all
mount -t tmpfs tmpfs /run               # for systemd-nspawn's own files
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"

# Nothing that packages have enabled is to run, be it by unit or by init script.
rm -rf "$1/root"/etc/systemd/system "$1/root"/etc/rc?.d "$1/root"/var/log/journal
for file in resolv.conf hosts nsswitch.conf passwd group; do
	cat "/etc/$file" >"$1/$file" # the simulated host's
	rm -f "$1/root/etc/$file"    # may be a link
	mv "$1/$file" "$1/root/etc/"
done
cp -a "$1/../files/." "$1/root/"

group=/sys/fs/cgroup/appfw-machine-$$ nspawn='' stopped=''
stop() {
	stopped=yes
	[ -z "$nspawn" ] || kill -KILL "$nspawn" || : # it may not be in the group yet
	echo 1 >"$group/cgroup.kill"
}
mkdir "$group"
trap stop TERM
(
	echo 0 >"$group/cgroup.procs"
	exec systemd-nspawn --quiet --directory="$1/root" --machine=machine --boot --register=no --keep-unit --settings=no \
		--notify-ready=yes --console=pipe --resolv-conf=off --timezone=off --link-journal=no --capability=CAP_NET_ADMIN
) &
nspawn=$!
[ -z "$stopped" ] || stop # the signal came before
while kill -0 "$nspawn" 2>/dev/null; do # a signal interrupts wait
	wait "$nspawn" || :
done
echo 1 >"$group/cgroup.kill" # if systemd-nspawn was killed
until find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; do
	sleep 0.01 # what was killed is ending
done
