#!/bin/sh
# disk.sh DEBIAN.tar SMOLVM_DIR OUT_DIR SIZE: the lane's disk, kernel and initrd from its parts. Runs as root, for the owners.
set -eu
debian=$1 smolvm=$2 out=$3 size=$4
recipe=$(dirname "$0")
tree=$out/tree
mkdir -p "$tree"
# The kernel fills /dev itself.
tar -C "$tree" --exclude='./dev/*' -xf "$debian"
cp "$tree"/boot/vmlinuz-* "$out/vmlinuz"
cp "$tree"/boot/initrd.img-* "$out/initrd"
chmod 644 "$out/vmlinuz" "$out/initrd"
cp -a "$smolvm" "$tree/opt/smol"
chown -R 0:0 "$tree/opt/smol"
chmod 755 "$tree/opt/smol"
ln -s /opt/smol/smolvm "$tree/usr/local/bin/smolvm"
install -m 755 "$recipe/init.sh" "$tree/init.sh"
install -m 755 "$recipe/run.sh" "$tree/usr/local/sbin/lane-run"
printf 'nameserver 10.0.2.3\n' >"$tree/etc/resolv.conf"
printf '127.0.0.1 localhost lane\n' >"$tree/etc/hosts"
rm -f "$tree"/etc/ssh/ssh_host_*
truncate -s "$size" "$out/disk.img"
mke2fs -q -t ext4 -L lane -d "$tree" "$out/disk.img"
chmod 644 "$out/disk.img"
rm -rf "$tree"
