"""Every option of the command, declared here once, and nothing else.

Help, parser, PET_* variables, `docs/reference/options.md` and the way back to an argument list are
derived from these fields. What must hold between them, and what their texts mean, is in spec.py.
"""

from __future__ import annotations

from launcher.options.option import Options, option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_WORKERS = "workers"
_SCRIPT = "what is run"
_OUTPUT = "output"
_FAILURES = "failures and stopping"
_NODES = "nodes"
_OTHER = "accepted, so that a torchrun command line works unchanged"


class OptionTable(Options):
    """The options of a launch, as texts and numbers; `LaunchSpec` knows what they mean."""

    nproc_per_node: str = option(
        "--nproc-per-node",
        default="1",
        metavar="N",
        group=_WORKERS,
        example="2",
        help=(
            "Number of workers: a number, `cpu` (one per usable CPU), `gpu` (one per GPU), or"
            " `auto` (GPUs if there are any, else CPUs)."
        ),
    )
    start: str = option(
        "--start",
        default="auto",
        choices=("auto", "warm", "spawn", "in-place"),
        group=_WORKERS,
        help=(
            "How workers start: `warm` imports the heavy modules once and forks the workers,"
            " `spawn` starts one interpreter per worker, `auto` is warm wherever that is safe."
            " `in-place`: each process that mpirun or srun has started runs the script itself."
        ),
    )
    preload: tuple[str, ...] = option(
        "--preload",
        default=(),
        metavar="MODULE,...",
        group=_WORKERS,
        example="torch,torchvision",
        help="Modules that a warm start imports besides those that the script names.",
    )
    devices: tuple[str, ...] = option(
        "--devices",
        default=(),
        metavar="ID,...",
        group=_WORKERS,
        example="0,1",
        help="The GPUs to use, by number or UUID, in the order of the local ranks.",
    )
    backend: str = option(
        "--backend",
        default="auto",
        choices=("auto", "nccl", "gloo", "mpi", "horovod"),
        group=_WORKERS,
        help=(
            "Backend that launcher.init() takes in the workers; `auto` is nccl with GPUs, else"
            " gloo. `horovod` also serves what scripts with hvd.init() need. `mpi` is for ranks"
            " that mpirun starts."
        ),
    )
    virtual_local_rank: bool = option(
        "--virtual-local-rank",
        default=False,
        group=_WORKERS,
        help="Give every worker LOCAL_RANK=0 and a CUDA_VISIBLE_DEVICES with its own GPU only.",
    )
    numa_binding: str | None = option(
        "--numa-binding",
        default=None,
        choices=("node", "socket", "exclusive", "core-complex"),
        group=_WORKERS,
        help=(
            "Bind each worker to CPUs near its GPU: to its NUMA `node`, to all nodes of its"
            " `socket`, to an `exclusive` share of the node's cores, or to a `core-complex`, cores"
            " with one last-level cache. Without GPUs the workers are spread over the nodes."
        ),
    )
    role: str = option(
        "--role",
        default="default",
        metavar="NAME",
        group=_WORKERS,
        help="Value of ROLE_NAME in the workers.",
    )

    module: bool = option(
        "-m",
        "--module",
        default=False,
        group=_SCRIPT,
        help="SCRIPT is the name of a module, as in `python -m`.",
    )
    no_python: bool = option(
        "--no-python",
        default=False,
        group=_SCRIPT,
        help="SCRIPT is a command and no Python file: start it without an interpreter.",
    )
    run_path: bool = option(
        "--run-path",
        default=False,
        group=_SCRIPT,
        help="Run SCRIPT with runpy.run_path in the worker, as torchrun does with this flag.",
    )
    dry_run: bool = option(
        "--dry-run",
        default=False,
        group=_SCRIPT,
        help=(
            "Print layout, command and environment of each rank, and where each value came from;"
            " start nothing."
        ),
    )

    run_dir: str = option(
        "--run-dir",
        default="runs",
        metavar="DIR",
        group=_OUTPUT,
        help="Folder in which each run gets a folder of its own, named by its id.",
    )
    log_dir: str | None = option(
        "--log-dir",
        default=None,
        metavar="DIR",
        group=_OUTPUT,
        example="logs",
        help=(
            "Folder for the workers' log files, in a sub-folder per run (default: inside the run's"
            " folder)."
        ),
    )
    redirects: str = option(
        "-r",
        "--redirects",
        default="0",
        metavar="STREAMS",
        group=_OUTPUT,
        example="3",
        help=(
            "Write these streams to the log files only, not to the terminal: 1 stdout, 2 stderr, 3"
            " both, 0 none, for all workers or by local rank as in `0:1,1:2`."
        ),
    )
    tee: str = option(
        "-t",
        "--tee",
        default="0",
        metavar="STREAMS",
        group=_OUTPUT,
        example="3",
        help=(
            "Write these streams to the terminal and to the log files, whatever --redirects says;"
            " without it, this happens to all streams. Same syntax."
        ),
    )
    local_ranks_filter: str = option(
        "--local-ranks-filter",
        default="",
        metavar="RANK,...",
        group=_OUTPUT,
        example="0,1",
        help="Show only the output of these local ranks on the terminal; log files stay complete.",
    )
    console_ranks: str = option(
        "--console-ranks",
        default="",
        metavar="RANK,...",
        group=_OUTPUT,
        example="0,8-15",
        help=(
            "Show only the output of these ranks of the whole run, or of `all` (default: all; with"
            " more than 8 ranks on a terminal, stdout of the first and stderr of all)."
        ),
    )
    fold: bool = option(
        "--fold",
        default=False,
        group=_OUTPUT,
        help=(
            "Show a line that several ranks write at the same time once, as in `[0-7] text`; lines"
            " come up to 0.15 s later for it."
        ),
    )
    timestamps: bool = option(
        "--timestamps",
        default=False,
        group=_OUTPUT,
        help="Begin each line on the terminal with the time at which it came.",
    )
    quiet: bool = option(
        "--quiet",
        default=False,
        group=_OUTPUT,
        help="Show what the ranks write, errors, and the failure report; nothing else.",
    )
    stats: bool = option(
        "--stats",
        default=False,
        group=_OUTPUT,
        help=(
            "Print at the end what each rank has used, how long it waited for others, and which one"
            " was slowest."
        ),
    )
    log_line_prefix_template: str | None = option(
        "--log-line-prefix-template",
        default=None,
        metavar="TEXT",
        group=_OUTPUT,
        example="'${hostname}:${rank}: '",
        also_env="TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE",
        help=(
            "Prefix of each line on the terminal; ${role_name}, ${local_rank}, ${rank} and"
            " ${hostname} are replaced (default: `[rank] `)."
        ),
    )
    no_tty: bool = option(
        "--no-tty",
        default=False,
        group=_OUTPUT,
        help=(
            "Let workers write into pipes also where the launcher has a terminal; without it, they"
            " have terminals, too."
        ),
    )
    bars: str = option(
        "--bars",
        default="one",
        choices=("one", "all"),
        group=_OUTPUT,
        help=(
            "Progress bars on a terminal: those of `one` rank, the lowest that has any, or a line"
            " for each of `all` ranks."
        ),
    )
    stdin_rank: int = option(
        "--stdin-rank",
        default=0,
        minimum=0,
        metavar="RANK",
        group=_OUTPUT,
        example="1",
        help=(
            "The rank that reads what the launcher is given: its terminal, a pipe or a file. Others"
            " read an empty file."
        ),
    )
    duplicate_stdout_filters: str = option(
        "--duplicate-stdout-filters",
        default="",
        metavar="TEXT,...",
        group=_OUTPUT,
        example="loss,accuracy",
        help=(
            "Also write lines of stdout that contain one of these texts to one file for all ranks;"
            " `,,` stands for a comma."
        ),
    )
    duplicate_stderr_filters: str = option(
        "--duplicate-stderr-filters",
        default="",
        metavar="TEXT,...",
        group=_OUTPUT,
        example="Warning,Error",
        help="The same for stderr.",
    )

    keep: int = option(
        "--keep",
        default=0,
        minimum=0,
        metavar="N",
        group=_OUTPUT,
        example="20",
        help=(
            "When the run has ended, remove the oldest runs in --run-dir that have ended, until N"
            " are left (0: all stay)."
        ),
    )
    events: int | None = option(
        "--events",
        default=None,
        minimum=3,
        metavar="FD",
        group=_OUTPUT,
        example="3",
        help="Write each event as a line of JSON to this open descriptor, for a program to follow.",
    )
    on_end: str | None = option(
        "--on-end",
        default=None,
        metavar="CMD",
        group=_OUTPUT,
        example="'./tell.sh \"$1\"'",
        help=(
            "Command for a shell when the run has ended, with the path of end.json as $1; it may"
            " take 30 s, and its output goes to notify.log."
        ),
    )
    on_failure: str | None = option(
        "--on-failure",
        default=None,
        metavar="CMD",
        group=_OUTPUT,
        example="'./tell.sh \"$1\"'",
        help="The same when it has failed, with the path of report.json; before that of --on-end.",
    )

    max_restarts: int = option(
        "--max-restarts",
        default=0,
        minimum=0,
        metavar="N",
        group=_FAILURES,
        example="3",
        help="How often all workers are started again after a failure.",
    )
    restart_backoff: float = option(
        "--restart-backoff",
        default=0.5,
        minimum=0,
        metavar="SECONDS",
        group=_FAILURES,
        help=(
            "Pause before the second restart in a row of attempts that fail at their start; it"
            " doubles up to 60 s, with jitter. The first restart comes at once."
        ),
    )
    restart_limit: str = option(
        "--restart-limit",
        default="",
        metavar="N/SECONDS",
        group=_FAILURES,
        example="3/600",
        help="At most N restarts within so many seconds, besides --max-restarts for the whole run.",
    )
    no_restart_codes: str = option(
        "--no-restart-codes",
        default="",
        metavar="CODE,...",
        group=_FAILURES,
        example="2,64-78",
        help="Exit codes of a worker after which nothing is restarted.",
    )
    hang_timeout: float = option(
        "--hang-timeout",
        default=0.0,
        minimum=0,
        metavar="SECONDS",
        group=_FAILURES,
        example="600",
        help=(
            "Stop the run, and say where each rank is, when for so long no rank has written"
            " anything or used CPU time, or a rank has not called ctx.heartbeat() any more. 0: one"
            " warning after 5 minutes."
        ),
    )
    shutdown_timeout: float = option(
        "--shutdown-timeout",
        default=30.0,
        minimum=0,
        metavar="SECONDS",
        group=_FAILURES,
        also_env="TORCH_ELASTIC_SHUTDOWN_TIMEOUT",
        help="How long workers may take to end after SIGTERM before they get SIGKILL.",
    )
    die_with_parent: bool = option(
        "--die-with-parent",
        default=False,
        group=_FAILURES,
        help=(
            "Stop the run when the process that started the launcher has ended; LAUNCHER_PARENT_PID"
            " may name another one above it."
        ),
    )
    signals_to_handle: str = option(
        "--signals-to-handle",
        default="SIGTERM,SIGINT,SIGHUP,SIGQUIT",
        metavar="NAME,...",
        group=_FAILURES,
        help="Signals to the launcher that stop the workers.",
    )

    nnodes: str = option(
        "--nnodes",
        default="1:1",
        metavar="N",
        group=_NODES,
        example="2",
        help=(
            "Number of nodes, or MIN:MAX: then the run starts with those that have come, and a node"
            " that is lost, or comes later, means a restart with those that are there."
        ),
    )
    node_rank: int | None = option(
        "--node-rank",
        default=None,
        minimum=0,
        metavar="N",
        group=_NODES,
        example="1",
        help="Rank of this node (default: as its starter says, else by arrival).",
    )
    master_addr: str = option(
        "--master-addr",
        default="127.0.0.1",
        metavar="ADDRESS",
        group=_NODES,
        help=(
            "Value of MASTER_ADDR in the workers. On several nodes it is node 0, where the others"
            " ask for their ranks (default: the address at which they have reached it)."
        ),
    )
    master_port: int | None = option(
        "--master-port",
        default=None,
        minimum=1,
        metavar="PORT",
        group=_NODES,
        example="29500",
        help="Value of MASTER_PORT in the workers (default: a free port of each run's own).",
    )
    rdzv_endpoint: str = option(
        "--rdzv-endpoint",
        default="",
        metavar="HOST[:PORT]",
        group=_NODES,
        example="node0:29400",
        help=(
            "Where the nodes of a run meet: one of them, and a port that is free there (default:"
            " 29400). One node needs none."
        ),
    )
    control_port: int | None = option(
        "--control-port",
        default=None,
        minimum=1,
        metavar="PORT",
        group=_NODES,
        example="29501",
        help=(
            "Port at which nodes with --master-addr meet, besides the workers' MASTER_PORT"
            " (default: the one above it)."
        ),
    )
    rdzv_id: str = option(
        "--rdzv-id",
        default="none",
        metavar="ID",
        group=_NODES,
        help=(
            "Id of the run, which becomes TORCHELASTIC_RUN_ID (default: a new one for each run);"
            " nodes with different ids never meet."
        ),
    )
    rdzv_conf: str = option(
        "--rdzv-conf",
        default="",
        metavar="KEY=VALUE,...",
        group=_NODES,
        example="join_timeout=120",
        help=(
            "`join_timeout`: seconds in which the nodes must have come (600). `last_call_timeout`:"
            " how long MIN nodes wait for others at the start (30). Other keys of torchrun have no"
            " meaning here."
        ),
    )
    local_addr: str | None = option(
        "--local-addr",
        default=None,
        metavar="ADDRESS",
        group=_NODES,
        example="10.0.0.2",
        help="Address of this node for the others (default: the one it has reached them from).",
    )
    node_timeout: float = option(
        "--node-timeout",
        default=6.0,
        minimum=1,
        metavar="SECONDS",
        group=_NODES,
        help=(
            "A node that has been silent for so long is lost. One whose launcher has died is known"
            " at once."
        ),
    )
    rescale: str = option(
        "--rescale",
        default="now",
        choices=("now", "next"),
        group=_NODES,
        help=(
            "When a node that comes later, below MAX, takes part: `now`, by a restart, or at the"
            " `next` one."
        ),
    )
    secret_file: str | None = option(
        "--secret-file",
        default=None,
        metavar="FILE",
        group=_NODES,
        example="~/.launcher-secret",
        help=(
            "File that only you may read, with the secret by which the nodes of a run know each"
            " other; LAUNCHER_SECRET, a variable, does the same."
        ),
    )
    engine: str = option(
        "--engine",
        default="auto",
        choices=("auto", "ssh", "mpi", "slurm"),
        group=_NODES,
        help=(
            "What starts a launcher on each node: `ssh` or `mpi` on --hosts, `slurm` in an"
            " allocation or with --submit. `auto`: ssh with --hosts, else this is one of them."
        ),
    )
    hosts: str = option(
        "--hosts",
        default="",
        metavar="HOST[:N],...",
        group=_NODES,
        example="node1:8,node2:8",
        help="Hosts to start on, and the number of workers of each (default: --nproc-per-node).",
    )
    hostfile: str | None = option(
        "--hostfile",
        default=None,
        metavar="FILE",
        group=_NODES,
        example="hosts.txt",
        help="The same from a file, as Open MPI, DeepSpeed and horovodrun write them.",
    )
    export: tuple[str, ...] = option(
        "--export",
        default=(),
        metavar="NAME[=VALUE],...",
        group=_NODES,
        example="HF_HOME,DEBUG=1",
        help="Variables to take along to the hosts, besides those that are known to matter.",
    )
    submit: bool = option(
        "--submit",
        default=False,
        group=_NODES,
        help="With --engine slurm: write a batch script, submit it and print its job id.",
    )
    wait: bool = option(
        "--wait",
        default=False,
        group=_NODES,
        help="With --submit: show the job's output until it ends; Ctrl-C cancels the job.",
    )
    time: str = option(
        "--time",
        default="",
        metavar="TIME",
        group=_NODES,
        example="4:00:00",
        help="Slurm's time limit of the job.",
    )
    partition: str = option(
        "--partition", default="", metavar="NAME", group=_NODES, help="Slurm's partition."
    )
    account: str = option(
        "--account", default="", metavar="NAME", group=_NODES, help="Slurm's account."
    )
    gpus_per_node: str = option(
        "--gpus-per-node",
        default="",
        metavar="N",
        group=_NODES,
        example="8",
        help="GPUs that Slurm is asked for on each node.",
    )
    engine_args: str = option(
        "--engine-args",
        default="",
        metavar="TEXT",
        group=_NODES,
        example="'--constraint=a100'",
        help="More arguments for the engine's own command, as a shell would read them.",
    )
    standalone: bool = option(
        "--standalone",
        default=False,
        group=_NODES,
        help="Run on this node alone, which is the default anyway.",
    )

    rdzv_backend: str = option(
        "--rdzv-backend",
        default="static",
        metavar="NAME",
        group=_OTHER,
        ignored="nodes meet in one way",
    )
    monitor_interval: float = option(
        "--monitor-interval", default=0.1, metavar="SECONDS", group=_OTHER, ignored="nothing polls"
    )
    start_method: str = option(
        "--start-method",
        default="spawn",
        choices=("spawn", "fork", "forkserver"),
        group=_OTHER,
        ignored="see --start",
    )
    event_log_handler: str = option(
        "--event-log-handler",
        default="null",
        metavar="NAME",
        group=_OTHER,
        ignored="it names a part of torchrun",
    )
    logs_specs: str | None = option(
        "--logs-specs",
        default=None,
        metavar="NAME",
        group=_OTHER,
        ignored="it names a plug-in of torchrun, which must be installed",
    )

    script: str = option(help="The script, module or command that each worker runs.")
    script_args: tuple[str, ...] = option(default=(), help="Its arguments, byte for byte.")
    provenance: Mapping[str, str] = option(default={}, help="Where each value came from.")
