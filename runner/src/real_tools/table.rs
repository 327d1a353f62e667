//! The tools: how each fetches something below a base address (`$1`) and prints what it fetched.

/// A tool that agents fetch with.
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// Shell script, in an empty directory. It prints what was fetched, or what the tool says of its failure, and fails with it.
    pub script: &'static str,
    /// What the tool shows of a refusal over HTTPS, where all that it gets is the status of its CONNECT.
    pub refused: &'static str,
    /// What it shows over plain HTTP, where it gets our sentence.
    pub refused_plain: &'static str,
}

/// What every file of the shelf says.
pub const SAID: &str = "content from the stand-in internet";

/// The sentence of a refusal, as far as it is the same for every host.
const SENTENCE: &str = "is not among the hosts this bottle may reach";

pub const TOOLS: &[Tool] = &[
    Tool {
        name: "curl",
        script: r#"curl -sS --fail-with-body "$1/plain.txt""#,
        refused: "403",
        refused_plain: SENTENCE,
    },
    Tool {
        name: "git",
        script: r#"git clone -q "$1/sample.git" cloned && cat cloned/README"#,
        refused: "403",
        refused_plain: "403",
    },
    Tool {
        name: "Python requests",
        script: r#"python3 -c '
import requests, sys
answer = requests.get(sys.argv[1] + "/plain.txt")
print(answer.text)
answer.raise_for_status()' "$1""#,
        refused: "403",
        refused_plain: SENTENCE,
    },
    Tool {
        name: "Python urllib",
        script: r#"python3 -c '
import sys, urllib.request, urllib.error
try:
    print(urllib.request.urlopen(sys.argv[1] + "/plain.txt").read().decode())
except urllib.error.HTTPError as error:
    sys.exit(error.read().decode())' "$1""#,
        refused: "403",
        refused_plain: SENTENCE,
    },
    Tool {
        name: "pip",
        script: r#"pip download -vv --no-cache-dir --retries 0 --no-deps --trusted-host "$(echo "$1" | cut -d/ -f3)" -d . \
    --index-url "$1/simple/" bottle-sample && python3 -c 'import sys; sys.path.append(sys.argv[1]); import bottle_sample
print(bottle_sample.said)' ./*.whl"#,
        refused: "403",
        refused_plain: "403",
    },
    Tool {
        name: "Node fetch",
        script: r#"node -e '
fetch(process.argv[1] + "/plain.txt").then(async answer => {
    console.log(await answer.text());
    process.exitCode = answer.ok ? 0 : 1;
}, error => { console.error(error); process.exitCode = 2; })' "$1""#,
        refused: SENTENCE,
        refused_plain: SENTENCE,
    },
    Tool {
        name: "Node http and https",
        script: r#"node -e '
const url = process.argv[1] + "/plain.txt";
require(url.split(":")[0]).get(url, answer => {
    answer.pipe(process.stdout);
    process.exitCode = answer.statusCode === 200 ? 0 : 1;
}).on("error", error => { console.error(error); process.exitCode = 2; })' "$1""#,
        refused: SENTENCE,
        refused_plain: SENTENCE,
    },
    Tool {
        name: "npm",
        script: r#"npm install --fetch-retries 0 --no-audit --no-fund --cache ./cache --registry "$1/npm/" bottle-sample \
    && node -p 'require("bottle-sample")'"#,
        refused: "403",
        refused_plain: "403",
    },
    Tool {
        name: "cargo",
        script: r#"export CARGO_HOME=$PWD/home
mkdir -p home src && touch src/lib.rs
printf '[package]\nname = "a"\nversion = "0.1.0"\n[dependencies]\nbottle-sample = "1"\n' > Cargo.toml
printf '[source.crates-io]\nreplace-with = "sample"\n[source.sample]\nregistry = "sparse+%s/cargo/"\n[net]\nretry = 0\n' "$1" \
    > home/config.toml
cargo fetch && cat home/registry/src/*/bottle-sample-1.0.0/src/lib.rs"#,
        refused: "403",
        refused_plain: SENTENCE,
    },
    Tool {
        name: "Java HttpClient",
        // Compiled once a guest.
        script: r#"mkdir -p /tmp/java && cat > Fetch.java <<'END'
import java.net.URI;
import java.net.http.*;
class Fetch {
    public static void main(String[] words) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(words[0] + "/plain.txt")).build();
        var answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.body());
        System.exit(answer.statusCode() == 200 ? 0 : 1);
    }
}
END
[ -e /tmp/java/Fetch.class ] || javac -d /tmp/java Fetch.java
java -XX:TieredStopAtLevel=1 -cp /tmp/java Fetch "$1""#,
        refused: "403",
        refused_plain: SENTENCE,
    },
    Tool {
        name: "apt",
        script: r#"mkdir -p state/lists/partial cache/archives/partial
echo "deb [trusted=yes] $1 debian/" > sources.list
: > status
options="-o Dir::State=$PWD/state -o Dir::State::Status=$PWD/status -o Dir::Cache=$PWD/cache -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::SourceList=$PWD/sources.list -o APT::Update::Error-Mode=any -o Acquire::Retries=0"
apt-get -q $options update && apt-get -q $options download bottle-sample \
    && dpkg-deb --fsys-tarfile bottle-sample_1.0_all.deb | tar -xO ./usr/share/bottle-sample/said"#,
        refused: "403",
        refused_plain: "403",
    },
];
