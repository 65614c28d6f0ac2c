//! A stand-in for AWS (KMS, IAM, Glue …): moto, as a child of the test process.

use super::readback::{python, python_program};
use super::{free_port, wait_until};
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};

/// The region of everything in it.
pub const REGION: &str = "eu-west-1";
/// Credentials, of which moto only wants that there are some.
pub const ACCESS_KEY: &str = "AKIAIOSFODNN7MOTO";
/// Their secret.
pub const SECRET_KEY: &str = "the secret of moto";

/// A running server; stopped when dropped.
pub struct Moto {
    endpoint: String,
    process: Child,
}

impl Moto {
    /// A server that takes any credentials. (It can look at them, but what it then says is not in the form of the services.)
    pub fn start() -> Self {
        let port = free_port();
        // It must not outlive a test process that is killed.
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=KILL").arg(python_program()).args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let moto =
            Self { endpoint: format!("http://127.0.0.1:{port}"), process: process.expect("start moto; ./build.sh test installs it") };
        wait_until("moto listens", 60, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        moto
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Has a command talk to it, with credentials that it takes.
    pub fn serve<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("AWS_ENDPOINT_URL", &self.endpoint).env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    }

    /// Runs Python statements with `client(name)`, a boto3 client, and `job`, the input; what they leave in `answer` comes back.
    #[track_caller]
    pub fn ask(&self, statements: &str, job: &Value) -> Value {
        let script = format!(
            "import base64, boto3, json, sys
given = json.load(sys.stdin)
job = given['job']
def client(name):
    return boto3.client(name, **given['client'])
{statements}
print(json.dumps(answer))"
        );
        let client = json!({
            "endpoint_url": self.endpoint, "region_name": REGION, "aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY,
        });
        python(&script, &json!({"job": job, "client": client}))
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
