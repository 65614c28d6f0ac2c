//! Ceph, a production store that is not Amazon's: tables lie on it, and a catalog in SQL decides.

use super::testing::{Running, append, free_port, lake, python, rows, spec, wait_for};
use crate::Destination;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const ACCESS: &str = "AKIACEPHTESTKEY";
const SECRET: &str = "hunter2hunter2hunter2";

/// A cluster of one monitor and one disk in memory, on the ports `$2` to `$4`, in the folder `$1`; what is started writes its process id there.
const CLUSTER: &str = r#"
set -eu
D=$1; F=$(cat /proc/sys/kernel/random/uuid); U=$(cat /proc/sys/kernel/random/uuid)
mkdir -p "$D/mon" "$D/osd" "$D/rgw"
cat > "$D/ceph.conf" <<CONF
[global]
fsid = $F
mon host = [v2:127.0.0.1:$2/0,v1:127.0.0.1:$3/0]
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = $D/keyring
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg num = 4
osd pool default pg autoscale mode = off
mon warn on pool no redundancy = false
run dir = $D
log file = $D/\$name.log
admin socket = $D/\$name.asok
pid file = $D/\$name.pid
public addr = 127.0.0.1
cluster addr = 127.0.0.1
[mon.a]
mon data = $D/mon
[osd.0]
osd data = $D/osd
osd objectstore = memstore
memstore device bytes = 1073741824
keyring = $D/osd/keyring
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:$4
rgw data = $D/rgw
CONF
cd "$D"
ceph-authtool --create-keyring keyring --gen-key -n mon. --cap mon 'allow *'
ceph-authtool keyring --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
ceph-authtool keyring --gen-key -n client.rgw.a --cap mon 'allow rwx' --cap osd 'allow rwx'
monmaptool --create --fsid "$F" --addv a "[v2:127.0.0.1:$2,v1:127.0.0.1:$3]" monmap
ceph-mon -c ceph.conf -i a --mkfs --monmap monmap --keyring keyring
ceph-mon -c ceph.conf -i a
S=$(ceph-authtool --gen-print-key)
echo "{\"cephx_secret\": \"$S\"}" | timeout 60 ceph -c ceph.conf osd new "$U" -i -
ceph-authtool --create-keyring osd/keyring -n osd.0 --add-key "$S"
ceph-osd -c ceph.conf -i 0 --mkfs --osd-uuid "$U"
ceph-osd -c ceph.conf -i 0
timeout 120 radosgw-admin -c ceph.conf -n client.rgw.a user create --uid=u --display-name=u --access-key="$5" --secret="$6"
"#;

struct Ceph {
    _gateway: Running,
    folder: TempDir,
    endpoint: String,
}

impl Ceph {
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn start() -> Option<Self> {
        let installed = |program| Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
        if !["ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph"].into_iter().all(installed) {
            // Sixty packages for one test: nobody has to have them.
            eprintln!("not tested: Ceph, for want of ceph-mon, ceph-osd, radosgw and ceph-common");
            return None;
        }
        let folder = TempDir::new().expect("folder");
        let port = free_port();
        let made = Command::new("bash")
            .args(["-c", CLUSTER, "cluster"])
            .arg(folder.path())
            .args([free_port().to_string(), free_port().to_string(), port.to_string(), ACCESS.into(), SECRET.into()])
            .output()
            .expect("bash");
        let gateway = Running(start_gateway(folder.path()));
        let mut ceph = Self { _gateway: gateway, folder, endpoint: format!("http://127.0.0.1:{port}") };
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        wait_for(port, &mut ceph._gateway.0, Duration::from_secs(120));
        let bucket = format!(
            "import boto3; boto3.client('s3', endpoint_url={:?}, aws_access_key_id={ACCESS:?}, aws_secret_access_key={SECRET:?}, \
             region_name='us-east-1').create_bucket(Bucket='lake')",
            ceph.endpoint
        );
        assert!(Command::new(python()).args(["-c", &bucket]).status().expect("python").success(), "no bucket");
        Some(ceph)
    }
}

fn start_gateway(folder: &Path) -> Child {
    let mut command = Command::new("radosgw");
    command.current_dir(folder).args(["-c", "ceph.conf", "-n", "client.rgw.a", "-f"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("radosgw")
}

impl Drop for Ceph {
    fn drop(&mut self) {
        for daemon in ["osd.0", "mon.a"] {
            if let Ok(pid) = std::fs::read_to_string(self.folder.path().join(format!("{daemon}.pid"))) {
                let _: std::io::Result<_> = Command::new("kill").args(["-9", pid.trim()]).status();
            }
        }
    }
}

fn keys(ceph: &Ceph, catalog: &Value) -> Value {
    let mut keys = json!({
        "iceberg_s3_path": "s3://lake/some/where",
        "s3_endpoint": ceph.endpoint,
        "aws_access_key": ACCESS,
        "aws_secret_key": SECRET,
    });
    keys.as_object_mut().expect("keys").extend(catalog.as_object().expect("keys").clone());
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_decides_by_itself_needs_nothing_of_ceph() {
    let Some(ceph) = Ceph::start() else { return };
    let url = format!("jdbc:sqlite:{}", ceph.folder.path().join("catalog.db").display());
    let sql = lake(keys(&ceph, &json!({"catalog_type": "jdbc", "jdbc_url": url}))).await;
    sql.check().await.expect("check");
    append(&sql, &spec("db", "t", ""), "a", &[1]).await.expect("a commit");
    append(&sql, &spec("db", "t", ""), "b", &[2]).await.expect("a second commit");
    assert_eq!(rows(&sql, &spec("db", "t", "")).await, [1, 2]);
}
