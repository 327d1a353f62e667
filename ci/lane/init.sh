#!/bin/bash
# Process 1 of the lane: mounts, network, modules, the engine, and a shell for the one key that came on the second disk.
# There is no systemd: one virtual CPU under software emulation has better things to do.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
say() { echo "lane: $1 at $(cut -d' ' -f1 /proc/uptime) s"; }

mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t cgroup2 none /sys/fs/cgroup
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
ulimit -n 65536
say mounted

# The watchdog outside takes a console that stands still for a wedged machine.
(while :; do sleep 5; say beat; done) &

hostname lane
for module in kvm_amd virtio_net tun vsock overlay loop; do modprobe "$module"; done
# The group that may use KVM on an ordinary Debian.
getent group kvm >/dev/null || groupadd -r kvm
if [ -e /dev/kvm ]; then chgrp kvm /dev/kvm && chmod 660 /dev/kvm; else say "no /dev/kvm"; fi

ip link set lo up
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e /sys/class/net/eth0 ] && break; sleep 0.2; done
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2

# The second disk is a plain archive: keys, programs, files and the command of this run.
tar -xf /dev/vdb -C / --no-same-owner --no-overwrite-dir --keep-directory-symlink || say "no second disk"

dockerd >/var/log/dockerd.log 2>&1 &
engine=$!
mkdir -p /run/sshd
/usr/sbin/sshd -o HostKey=/etc/ssh/lane_host_key -o UseDNS=no -o PermitRootLogin=prohibit-password
until docker version >/dev/null 2>&1; do
    if ! kill -0 "$engine" 2>/dev/null; then
        tail -n 20 /var/log/dockerd.log
        say "failed: the engine ended"
        break
    fi
    sleep 0.5
done
kill -0 "$engine" 2>/dev/null && say ready

# Process 1 reaps whatever is left to it.
while :; do wait -n 2>/dev/null || sleep 1; done
