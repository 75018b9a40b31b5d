# The launch: the study, frozen for every job, and what the rules ask of it.

import os
import re
import sys
from functools import cache
from pathlib import Path

from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.settings.enums import Quietness

sys.path.insert(0, workflow.basedir)

from scripts.plan import artifacts as plan
from scripts.plan.product import Key
from scripts.plan.specs import Trained
from scripts.plan.registry import REGISTRY, load_registry
from scripts.planning import budget, cluster, cost, dryrun, engine, fit, pilot, resilience, table
from scripts.planning.estimate import Estimate
from scripts.planning.failures import Failures
from scripts.planning.progress import ProgressLines
from scripts.common.devices import CPU
from scripts.common.errors import UserError
from scripts.launch.inputs import require_bytes
from scripts.launch.launch import begin
from scripts.launch.site import Site
from scripts.artifacts.learning_rates import note as rates_note
from scripts.artifacts.published import load_published, values_of
from scripts.artifacts.wanted import PUBLISHED, Request, Wanted

IS_HEAD = workflow.exec_mode.name == "DEFAULT"
if IS_HEAD:
    resilience.take_lock_elsewhere(JobScheduler)
try:
    LAUNCH = begin(config, workflow.basedir, sys.argv[1:], is_head=IS_HEAD)
    ARTIFACTS = load_registry(REGISTRY)
except UserError as error:
    sys.exit(f"error: {error}")

GRID = LAUNCH.grid
STORE = LAUNCH.seen_store
RESULTS = LAUNCH.results
# what this Snakemake is a job of, if it is one of a cluster's
JOB_ENGINE = engine.of_job(os.environ) if workflow.remote_exec else None
if JOB_ENGINE:
    JOB_ENGINE.enter_job()
    if PROLOGUE := Site(**LAUNCH.site).prologue:
        shell.prefix(f"set -euo pipefail; {PROLOGUE}; ")
if IS_HEAD and config.get("cluster") and LAUNCH.site["max_jobs"] and workflow.nodes:
    workflow.global_resources["_nodes"] = min(workflow.nodes, LAUNCH.site["max_jobs"])
# what this study has; an artifact that it does not have is no part of "all"
TARGETS = {name: artifact.files(RESULTS) for name, artifact in ARTIFACTS.items() if artifact.lack(GRID) is None}
FIGURES = [name for name in TARGETS if not ARTIFACTS[name].is_table]
ALL_FIGURES = [file for name in FIGURES for file in TARGETS[name]]
ALL_TABLES = [file for name, files in TARGETS.items() if name not in FIGURES for file in files]
# only a study of the paper's scale has numbers to compare
PAGES = [f"{RESULTS}/claims.md"] if plan.lack_of_claims(GRID) is None else []
if GRID.study.scale == "paper":
    PAGES.append(f"{RESULTS}/comparison.md")
# rule to the place of the store that it fills
PLACES = {
    "records": "data/records",
    "tokenizer": "data/tokenizers",
    "rows": "data/rows",
    "overlaps": "data/overlaps",
    "pretrain": "models",
    "train_leg": "legs",
    "train_run": "runs",
    "train_family": "families/trained",
    "sample": "samples",
    "evaluate": "evaluations",
    "judge": "evaluations",
    "evaluate_family": "families/evaluated",
    "fetch_model": "models",
    "fetch_published": "published",
    "spectra": "spectra",
    "spectra_family": "families/decomposed",
    "throughput": "throughput",
}
ESTIMATE = Estimate(GRID, LAUNCH.store)
PROGRESS = ProgressLines(ESTIMATE, PLACES)


def request_of_snakemake():
    """What was asked for, which Snakemake knows when it asks for inputs, and not yet while it reads the rules."""
    settings = workflow.dag_settings
    targets = settings.targets or [workflow.default_target]
    forced = {*settings.forcerun, *(targets if settings.forcetargets else ())}
    return Request(targets, forced if IS_HEAD else (), settings.forceall)


WANTED = Wanted(
    LAUNCH,
    ARTIFACTS,
    {"all": ALL_FIGURES + ALL_TABLES + PAGES, "all_figures": ALL_FIGURES, "all_tables": ALL_TABLES},
    PLACES,
    request_of_snakemake,
    is_head=IS_HEAD,
)


# tasks that models write answers to, which are judged by a job of their own
WRITTEN = "|".join(name for name, task in GRID.study.evaluation.known.items() if task.writes)
NAMES = "|".join({name.removeprefix("v1/"): None for name in ARTIFACTS})


wildcard_constraints:
    key=r"[\w./-]+-[0-9a-f]{12}",
    name=NAMES,
    place="(v1/)?(figures|tables)",
    root=rf"{re.escape(RESULTS)}(/{PUBLISHED})?(/v1)?",
    # what no other rule makes
    unknown=(
        rf"(?!{re.escape(STORE)}/|{re.escape(RESULTS)}/((published/)?(v1/)?(figures|tables)/({NAMES})\.|\.stale/|logs/"
        r"|(claims|comparison|learning_rates|contact_sheet|plan)\.))(results/.+|[^/]+|(v1|figures|tables)/.+)"
    ),


def artifact_name(wildcards):
    """The artifact that a file is of: results/v1/figures/fig2.pdf is of v1/fig2."""
    place = wildcards.get("place") or f"{wildcards.root}/"
    return f"v1/{wildcards.name}" if "v1/" in place else wildcards.name


def artifact(wildcards, folder=""):
    """The artifact that a file is of; where none is made there the launch ends with a sentence."""
    found = ARTIFACTS.get(artifact_name(wildcards))
    place = wildcards.get("place") or f"{wildcards.root}/{folder}"
    if found is None or os.path.basename(found.place) != os.path.basename(place):
        asked(WANTED.unknown, f"{place}/{wildcards.name}")
    return found


def drawing(folder):
    """The input function of what is made from a CSV in a folder."""
    return lambda wildcards: asked(
        lambda: WANTED.drawing(artifact(wildcards, folder), printed=wildcards.root.startswith(f"{RESULTS}/{PUBLISHED}"))
    )


def asked(inputs, *arguments):
    """What a target is made from; a study that cannot have it ends the launch with the reason."""
    try:
        return inputs(*arguments)
    except UserError as error:
        sys.exit(f"error: {error}")


def inputs_of(place):
    """The input function of whatever fills a place of the store."""
    return lambda wildcards: asked(WANTED.product, f"{place}/{wildcards.key}")


def length_of(place):
    """How long a job trains, for its message; a resource, because those start nothing anew when they change."""

    def words(wildcards):
        spec = Trained.read(GRID.find(f"{place}/{wildcards.key}").spec)
        cooldown = getattr(spec.schedule, "cooldown_batches", None)
        return f"{spec.amount} {spec.unit}" + (f", the last {cooldown} cooling down" if cooldown else "")

    return words


def task_of(kind):
    """What a command starts with; nothing where the job is none of a cluster."""
    return JOB_ENGINE.task(LAUNCH, kind) if JOB_ENGINE else ""


def request(wildcards, resources):
    """What a job asks the cluster for, for its message: Snakemake shows none of its own where there is one."""
    names = ("nodes", "tasks", "tasks_per_node", "gres", "cpus_per_task", "mem_mb", "runtime")
    names += ("slurm_account", "slurm_partition", "qos", "constraint", "slurm_extra")
    words = [f"{name}={resources.get(name)}" for name in names if resources.get(name)]
    return f" ({', '.join(words)})" if config.get("cluster") else ""


def deadline(wildcards, resources):
    """When training saves and ends, for the next attempt to go on; local jobs have all the time they want."""
    return JOB_ENGINE.deadline(LAUNCH, resources.runtime) if JOB_ENGINE else ""


def runs_here():
    """Whether a plan is one of this machine: a cluster's study is planned for its GPUs, with its profile or without."""
    return not config.get("cluster") and GRID.study.resources.devices.kind == CPU


@cache
def pilot_condition():
    return pilot.condition(LAUNCH, fit.Fit(LAUNCH, here=runs_here()).fits)


def pilot_inputs():
    """What the pilot of the study waits for."""
    block, chosen = pilot_condition()
    return WANTED.condition(block, chosen.evaluations.values())


def pilot_run(wildcards):
    return pilot_condition()[1].product


def printed_files():
    """All that can be made from the paper's printed numbers; read only when asked for, as no other job needs them."""
    published = load_published()
    shown = [artifact for name, artifact in ARTIFACTS.items() if values_of(name, published)]
    return [file for artifact in shown for file in artifact.files(f"{RESULTS}/{PUBLISHED}")]


def products_of(jobs):
    """The products that jobs of Snakemake make."""
    fingerprints = {Key(job.wildcards.get("key", "")).fingerprint for job in jobs}
    return [product for product in GRID if product.fingerprint in fingerprints]


def require_possible(products, here):
    """What ends a launch before anybody is asked for anything, and a dry-run behind its plan; returns GPU-hours.

    `here`: whether jobs run on this machine.
    """
    hours = cluster.gpu_hours(ESTIMATE, products)
    cluster.require_budget(hours, config.get(budget.KEY))
    fit.require_fits(LAUNCH, products, here=here)
    return hours


def machine():
    """What would run the jobs, as command line, profile and site have it."""
    if not config.get("cluster"):
        cores = workflow.resource_settings.cores or 1
        return table.Machine(cores, f"a job on each of {cores} cores", is_cluster=False)
    nodes, most = workflow.nodes or 1, LAUNCH.site["max_jobs"]
    limit, said = (most, "max_jobs of the site") if most and most <= nodes else (nodes, "jobs of the profile")
    number = "any number of" if limit == sys.maxsize else limit  # --jobs unlimited
    return table.Machine(limit, f"{number} jobs at a time ({said}) and none waiting in the queue", is_cluster=True)


def tell_plan(jobs):
    """What a dry-run ends with: the plan, and what would end its launch."""
    made = [job for job in jobs if job.output]
    if not made:
        return
    products = {product.key: product for product in products_of(made)}
    listed = [
        table.Job(products.get(f"{PLACES.get(job.rule.name)}/{job.wildcards.get('key')}"), after)
        for job, after in zip(made, dryrun.after(workflow.dag, made))
    ]
    whole = [GRID.products[key] for key in asked(WANTED.whole)]
    plan = table.plan_of(ESTIMATE, listed, whole, machine())
    lines = table.lines(plan, LAUNCH.store.root)
    if why := budget.unconfirmed(LAUNCH, plan.total.gpu_hours, config.get(budget.KEY), sys.argv[1:]):
        lines.append(f"Budget: {why}.")
    logger.info("\n".join(["", *lines]), extra={"quietness": Quietness.ALL})
    asked(require_possible, list(products.values()), runs_here())


if IS_HEAD:
    dryrun.at_end(workflow, tell_plan)


onstart:
    try:
        jobs = list(workflow.dag.needrun_jobs())
        products = products_of(jobs)
        hours = require_possible(products, here=workflow.local_exec)
        budget.require_confirmed(LAUNCH, hours, config.get(budget.KEY), sys.argv[1:])
        LAUNCH.require_locked(product.key for product in products)
        if WANTED.renamed:
            LAUNCH.store.require_writable()
        for key, other in WANTED.renamed.items():
            LAUNCH.store.link(GRID.products[key], other)
        require_bytes(LAUNCH, products)
        launcher = engine.of_executor(workflow.executor_plugin.name)
        launcher.require_ready(LAUNCH, products)
        live, unlock = config.get("on_live_jobs"), workflow.persistence.unlock
        launcher.begin(LAUNCH, products, workflow.workdir_init, live, logger, unlock)
        if products:
            LAUNCH.store.require_writable()  # the one that makes a directory, so after all that can end the launch
    except UserError as error:
        sys.exit(f"error: {error}")
    if WANTED.renamed:
        key, other = next(iter(WANTED.renamed.items()))
        logger.info(f"{len(WANTED.renamed)} products are made under other names, and linked: {key} was {other}.")
    if note := rates_note(GRID):
        logger.info(f"Note: {note}.")
    if workflow.local_exec:
        PROGRESS.start(jobs, workflow.resource_settings.cores, logger)
    else:
        PROGRESS.tell(jobs, hours, workflow.resource_settings.nodes, logger)
    Failures().start(jobs, logger, says_why=launcher.says_why)


def tell_cost():
    """Leaves what the study has cost so far beside its results."""
    if IS_HEAD:
        cost.write(LAUNCH, Path(RESULTS))


onsuccess:
    tell_cost()


onerror:
    tell_cost()
