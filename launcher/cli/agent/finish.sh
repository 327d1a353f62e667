# Finishes the root of the recommended agent image. $1: the root; $BOTTLE_NODE_TREE: what npm installed.
set -eu
root=$1

mkdir -p "$root/opt/bottle"
cp -R "$BOTTLE_NODE_TREE/node_modules" "$root/opt/bottle/"
chown -R 0:0 "$root/opt/bottle"

# The native program itself: the package's own link is made by a script of its, which is never run.
for claude in "$root"/opt/bottle/node_modules/@anthropic-ai/claude-code-linux-*/claude; do
    chmod 755 "$claude"
    ln -sf "${claude#"$root"}" "$root/usr/local/bin/claude"
done
test -e "$root$(readlink "$root/usr/local/bin/claude")"
for name in npm npx; do
    ln -sf "/opt/bottle/node_modules/npm/bin/$name-cli.js" "$root/usr/local/bin/$name"
    chmod 755 "$root/opt/bottle/node_modules/npm/bin/$name-cli.js"
done

# Many programs ask for the name and the home of who runs them; a bottle puts its home there.
chroot "$root" useradd --uid 1000 --no-create-home --home-dir /home/bottle --shell /bin/bash agent
mkdir -p "$root/home/bottle" "$root/work" "$root/run/bottle" "$root/etc/pki/ca-trust/extracted/pem"

rm -f "$root"/var/cache/apt/*.bin "$root"/var/log/*.log "$root"/var/log/apt/* "$root/etc/machine-id"
