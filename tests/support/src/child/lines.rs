//! The lines of the real program at v2.26.0, with the place that prints them.

use super::log::{Level, Line};

const START: &str = "github.com/coder/coder/v2/enterprise/cli.(*RootCmd).provisionerDaemonStart.func1";
const CONNECT: &str = "github.com/coder/coder/v2/provisionerd.(*Server).connect";
const ACQUIRE_ONE: &str = "github.com/coder/coder/v2/provisionerd.(*Server).acquireAndRunOne";
const ACQUIRE_LOOP: &str = "github.com/coder/coder/v2/provisionerd.(*Server).acquireLoop";
const ACQUIRE_EXIT: &str = "github.com/coder/coder/v2/provisionerd.(*Server).acquireExit";
const ACQUIRE_CANCEL: &str = "github.com/coder/coder/v2/provisionerd.(*Server).acquireGraceful.func1";
const SHUTDOWN: &str = "github.com/coder/coder/v2/provisionerd.(*Server).Shutdown";
const CLOSE: &str = "github.com/coder/coder/v2/provisionerd.(*Server).Close";
const CLOSE_ERROR: &str = "github.com/coder/coder/v2/provisionerd.(*Server).closeWithError";
const SERVE_HANDLER: &str = "github.com/coder/coder/v2/cli.ServeHandler.func1";
const TERRAFORM_SERVE: &str = "github.com/coder/coder/v2/provisioner/terraform.Serve";
const TERRAFORM_INSTALL: &str = "github.com/coder/coder/v2/provisioner/terraform.Install";
const TERRAFORM_INSTALL_TIMER: &str = "github.com/coder/coder/v2/provisioner/terraform.Install.func1";
const INSTALLER: &str = "github.com/hashicorp/hc-install/releases.(*ExactVersion).Install";
const RELEASES: &str = "github.com/hashicorp/hc-install/internal/releasesjson.(*Releases).GetProductVersion";
const RETRY: &str = "github.com/hashicorp/go-retryablehttp.(*Client).Do";

const TERRAFORM: &[&str] = &["terraform"];
const TERRAFORM_STDLIB: &[&str] = &["terraform", "stdlib"];

const fn line(level: Level, message: &'static str, caller: &'static str, func: &'static str) -> Line {
    Line {
        level,
        message,
        caller,
        func,
        loggers: &[],
    }
}

const fn terraform(
    level: Level,
    message: &'static str,
    caller: &'static str,
    func: &'static str,
    loggers: &'static [&'static str],
) -> Line {
    Line {
        level,
        message,
        caller,
        func,
        loggers,
    }
}

pub(super) const UNTAGGED: Line = line(
    Level::Info,
    "note: untagged provisioners can only pick up jobs from untagged templates",
    "enterprise/cli/provisionerdaemonstart.go:151",
    START,
);
pub(super) const PSK_SCOPE: Line = line(
    Level::Info,
    "psk automatically sets tag scope=organization",
    "enterprise/cli/provisionerdaemonstart.go:157",
    START,
);
pub(super) const KEY_SCOPE: Line = line(
    Level::Info,
    "provisioner key auth automatically sets tag scope empty",
    "enterprise/cli/provisionerdaemonstart.go:161",
    START,
);
pub(super) const METRICS_START: Line = line(
    Level::Info,
    "starting Prometheus endpoint",
    "enterprise/cli/provisionerdaemonstart.go:205",
    START,
);
pub(super) const STARTING: Line = line(
    Level::Info,
    "starting provisioner daemon",
    "enterprise/cli/provisionerdaemonstart.go:221",
    START,
);
pub(super) const METRICS_FAILED: Line = line(
    Level::Error,
    "http server listen",
    "cli/agent.go:548",
    SERVE_HANDLER,
);
pub(super) const METRICS_LISTENING: Line = line(
    Level::Info,
    "http server listening",
    "cli/agent.go:552",
    SERVE_HANDLER,
);

pub(super) const DIALING: Line = line(
    Level::Debug,
    "dialing coderd",
    "provisionerd/provisionerd.go:235",
    CONNECT,
);
pub(super) const FORBIDDEN: Line = line(
    Level::Error,
    "not authorized to dial coderd",
    "provisionerd/provisionerd.go:244",
    CONNECT,
);
pub(super) const DIAL_FAILED: Line = line(
    Level::Warn,
    "coderd client failed to dial",
    "provisionerd/provisionerd.go:250",
    CONNECT,
);
pub(super) const CONNECTED: Line = line(
    Level::Info,
    "successfully connected to coderd",
    "provisionerd/provisionerd.go:258",
    CONNECT,
);
pub(super) const CONNECT_EXITED: Line = line(
    Level::Debug,
    "connect loop exited",
    "provisionerd/provisionerd.go:269",
    CONNECT,
);
pub(super) const DISCONNECTED: Line = line(
    Level::Info,
    "connection to coderd closed",
    "provisionerd/provisionerd.go:271",
    CONNECT,
);

pub(super) const ACQUIRE_START: Line = line(
    Level::Debug,
    "start of acquireAndRunOne",
    "provisionerd/provisionerd.go:337",
    ACQUIRE_ONE,
);
pub(super) const ACQUIRE_DONE: Line = line(
    Level::Debug,
    "graceful acquire done",
    "provisionerd/provisionerd.go:339",
    ACQUIRE_ONE,
);
pub(super) const ACQUIRE_CANCELED: Line = line(
    Level::Debug,
    "acquire job successfully canceled",
    "provisionerd/provisionerd.go:351",
    ACQUIRE_ONE,
);
pub(super) const ACQUIRE_CANCELING: Line = line(
    Level::Debug,
    "sending acquire job cancel",
    "provisionerd/provisionerd.go:451",
    ACQUIRE_CANCEL,
);
pub(super) const ACQUIRE_ENDING: Line = line(
    Level::Debug,
    "exiting acquire; provisionerd is shutting down",
    "provisionerd/provisionerd.go:329",
    ACQUIRE_EXIT,
);
pub(super) const ACQUIRE_EXITED: Line = line(
    Level::Debug,
    "acquire loop exited",
    "provisionerd/provisionerd.go:299",
    ACQUIRE_LOOP,
);
pub(super) const ACQUIRE_FAILED: Line = line(
    Level::Warn,
    "failed to acquire job, retrying",
    "provisionerd/provisionerd.go:312",
    ACQUIRE_LOOP,
);

pub(super) const SHUTDOWN_START: Line = line(
    Level::Info,
    "attempting graceful shutdown",
    "provisionerd/provisionerd.go:612",
    SHUTDOWN,
);
pub(super) const SHUTDOWN_FAILED: Line = line(
    Level::Warn,
    "graceful shutdown failed",
    "provisionerd/provisionerd.go:623",
    SHUTDOWN,
);
pub(super) const SHUTDOWN_DONE: Line = line(
    Level::Info,
    "gracefully shutdown",
    "provisionerd/provisionerd.go:626",
    SHUTDOWN,
);
pub(super) const CLOSING: Line = line(
    Level::Info,
    "closing provisionerd",
    "provisionerd/provisionerd.go:633",
    CLOSE,
);
pub(super) const CLOSE_WAITING: Line = line(
    Level::Debug,
    "waiting for goroutines to exit",
    "provisionerd/provisionerd.go:669",
    CLOSE_ERROR,
);
pub(super) const CLOSE_DONE: Line = line(
    Level::Debug,
    "closing server with error",
    "provisionerd/provisionerd.go:671",
    CLOSE_ERROR,
);

pub(super) const TERRAFORM_TOO_OLD: Line = terraform(
    Level::Warn,
    "installed terraform version too old, will download known good version to cache, or use a previously cached version",
    "provisioner/terraform/serve.go:100",
    TERRAFORM_SERVE,
    TERRAFORM,
);
pub(super) const TERRAFORM_FOUND: Line = terraform(
    Level::Debug,
    "detected terraform version",
    "provisioner/terraform/serve.go:115",
    TERRAFORM_SERVE,
    TERRAFORM,
);
pub(super) const TERRAFORM_NEWER: Line = terraform(
    Level::Warn,
    "installed terraform version newer than expected, you may experience bugs",
    "provisioner/terraform/serve.go:123",
    TERRAFORM_SERVE,
    TERRAFORM,
);
pub(super) const TERRAFORM_INSTALLING: Line = terraform(
    Level::Debug,
    "installing terraform",
    "provisioner/terraform/install.go:77",
    TERRAFORM_INSTALL,
    TERRAFORM,
);
pub(super) const TERRAFORM_SLOW: Line = terraform(
    Level::Info,
    "terraform installation is taking longer than 15 seconds, still in progress",
    "provisioner/terraform/install.go:90",
    TERRAFORM_INSTALL_TIMER,
    TERRAFORM,
);
/// The messages of these four are made where they are written.
pub(super) const INSTALL_DIR: Line = terraform(
    Level::Debug,
    "",
    "/go/pkg/mod/github.com/hashicorp/hc-install@v0.9.2/releases/exact_version.go:109",
    INSTALLER,
    TERRAFORM_STDLIB,
);
pub(super) const INSTALL_REQUEST: Line = terraform(
    Level::Debug,
    "",
    "/go/pkg/mod/github.com/hashicorp/hc-install@v0.9.2/internal/releasesjson/releases.go:131",
    RELEASES,
    TERRAFORM_STDLIB,
);
pub(super) const RETRY_GET: Line = terraform(
    Level::Debug,
    "",
    "/go/pkg/mod/github.com/hashicorp/go-retryablehttp@v0.7.7/client.go:663",
    RETRY,
    TERRAFORM_STDLIB,
);
pub(super) const RETRY_FAILED: Line = terraform(
    Level::Debug,
    "",
    "/go/pkg/mod/github.com/hashicorp/go-retryablehttp@v0.7.7/client.go:720",
    RETRY,
    TERRAFORM_STDLIB,
);
pub(super) const RETRY_AGAIN: Line = terraform(
    Level::Debug,
    "",
    "/go/pkg/mod/github.com/hashicorp/go-retryablehttp@v0.7.7/client.go:764",
    RETRY,
    TERRAFORM_STDLIB,
);
