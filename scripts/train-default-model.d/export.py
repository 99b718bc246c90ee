"""Writes a checkpoint as one GGUF file: matrices in Q8_0, norms in F32, tokenizer and template inside."""

import json

import gguf
import numpy as np

import vocabulary

SIZE_MAX = 8 * 1024 * 1024


def write(path, shape, weights, tokenizer, trained):
    assert shape.width % 32 == 0 and shape.hidden % 32 == 0, "Q8_0 rows are multiples of 32"
    file = gguf.GGUFWriter(path, "llama")
    describe(file, shape, trained)
    add_tokenizer(file, tokenizer)
    for name, weight in weights.items():
        data = np.ascontiguousarray(weight.float().numpy())
        if data.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            file.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            file.add_tensor(name, data)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    assert path.stat().st_size <= SIZE_MAX, f"{path} is larger than {SIZE_MAX} bytes"


def describe(file, shape, trained):
    file.add_name("casemate-default")
    file.add_description(
        "A tiny model for trying Casemate: it says what everyday words mean. Trained on "
        f"{trained:,} tokens of Austen's novels, WordNet's definitions and the project's own texts."
    )
    file.add_license("Apache-2.0 for the weights; definitions from WordNet 3.0 under the WordNet licence")
    file.add_languages(["en"])
    file.add_context_length(shape.context)
    file.add_embedding_length(shape.width)
    file.add_block_count(shape.layers)
    file.add_feed_forward_length(shape.hidden)
    file.add_head_count(shape.heads)
    file.add_head_count_kv(shape.heads_kv)
    file.add_layer_norm_rms_eps(shape.epsilon)
    file.add_rope_dimension_count(shape.head_width)
    file.add_rope_freq_base(shape.rope_base)
    file.add_vocab_size(shape.vocabulary)
    file.add_quantization_version(gguf.GGML_QUANT_VERSION)
    file.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def add_tokenizer(file, tokenizer):
    stored = json.loads(tokenizer.to_str())
    words = {id_: word for word, id_ in stored["model"]["vocab"].items()}
    special = {token["id"]: token["content"] for token in stored["added_tokens"]}
    words |= special
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("gpt-2")
    file.add_token_list([words[id_] for id_ in range(len(words))])
    file.add_token_types(
        [
            gguf.TokenType.CONTROL if id_ in special else gguf.TokenType.NORMAL
            for id_ in range(len(words))
        ]
    )
    merges = stored["model"]["merges"]
    file.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    file.add_bos_token_id(vocabulary.BOS)
    file.add_eos_token_id(vocabulary.END)
    file.add_eot_token_id(vocabulary.END)
    file.add_add_bos_token(True)
    file.add_add_eos_token(False)
    file.add_chat_template(vocabulary.TEMPLATE)


def read(path):
    """Reads a written file back: tensors as float arrays, by name."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found[tensor.name] = np.array(data, dtype=np.float32).reshape(
            tuple(int(n) for n in tensor.shape[::-1])
        )
    return found
