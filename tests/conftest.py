import os
import tempfile

# Before jax is imported anywhere; commands that the tests start inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests are small: compiling is what takes time. No expensive passes, and nothing twice.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
    # Without it and with other emitters, two processes wait for each other.
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",
)
_OWN = tempfile.TemporaryDirectory(prefix="maskgit_jax_tests_")
_SHARED = os.environ.setdefault("MASKGIT_JAX_TESTS", _OWN.name)  # by all processes of the tests
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{_SHARED}/compiled")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import pytest
from absl import flags, logging

from maskgit_jax.command_line import collect_less_garbage

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
logging.set_verbosity(logging.WARNING)
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()

# A process takes a whole file at a time, so a long file must not come last.
LONGEST_FIRST = (
    "test_all_stages",
    "test_devices_and_resuming",
    "test_commands",
    "test_processes",
    "test_lineage_command",
    "test_latent_commands",
    "test_prior_commands",
    "test_vqgan",
    "test_benchmark",
)
# Whole files that compile networks or train; `-m "not slow"` leaves them out.
SLOW_FILES = {
    *LONGEST_FIRST, "test_model", "test_training", "test_stopping", "test_perceptual",
    "test_feature_weights", "test_resnet_weights", "test_programs", "test_checks", "test_generator",
    "test_editor", "test_maskgit", "test_autoregressive", "test_gpt", "test_vae", "test_vqvae",
    "test_vqvae2", "test_evaluate", "test_generation", "test_compile_check", "test_fused_attention",
    "test_guide",
}  # fmt: skip


def pytest_collection_modifyitems(items):
    collect_less_garbage()  # here all modules of the tests are imported
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    for item in items:
        if item.path.stem in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def key():
    return jax.random.key(0)
