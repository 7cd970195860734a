"""Drives a running cluster over gRPC with code generated from the project's own .proto files.
Usage: grpc_client.py ADDRESS MODEL GOLDEN.json PROTO_DIR"""

import importlib
import json
import sys
import tempfile

import grpc
from grpc_tools import protoc


def check(name, condition, detail=""):
    print(("ok   " if condition else "FAIL ") + name, detail if not condition else "", flush=True)
    if not condition:
        sys.exit(1)


def generated(proto_dir):
    out = tempfile.mkdtemp()
    code = protoc.main(["protoc", f"-I{proto_dir}", f"--python_out={out}", f"--grpc_python_out={out}", f"{proto_dir}/hadal/v1/hadal.proto"])
    check("the .proto compiles", code == 0)
    sys.path.insert(0, out)
    return importlib.import_module("hadal.v1.hadal_pb2"), importlib.import_module("hadal.v1.hadal_pb2_grpc")


def collect(stream):
    ids, text, finished, usage = {}, {}, {}, None
    for response in stream:
        kind = response.WhichOneof("event")
        if kind == "delta":
            d = response.delta
            have = ids.setdefault(d.choice, [])
            check("deltas are in order", d.first_token == len(have), (d.first_token, len(have)))
            have.extend(d.token_ids)
            text[d.choice] = text.get(d.choice, "") + d.text
        elif kind == "finished":
            finished[response.finished.choice] = response.finished
        elif kind == "usage":
            usage = response.usage
    return ids, text, finished, usage


def refused(name, code, call, *words):
    try:
        list(call())
    except grpc.RpcError as error:
        check(name, error.code() == code and all(w in error.details() for w in words), (error.code(), error.details()))
    else:
        check(name, False, "it was accepted")


def main():
    address, model, golden, proto_dir = sys.argv[1:5]
    pb, rpc = generated(proto_dir)
    channel = grpc.insecure_channel(address)
    stub = rpc.HadalStub(channel)
    check("models", model in [m.name for m in stub.Models(pb.ModelsRequest(), timeout=30).models])
    with open(golden) as file:
        prompts = json.load(file)["prompts"]
    for prompt in prompts:
        sampling = pb.SamplingOptions(max_tokens=32, temperature=0, ignore_eos=True)
        request = pb.GenerateRequest(model=model, token_ids=pb.TokenIds(ids=prompt["input_ids"]), sampling=sampling)
        ids, _, finished, usage = collect(stub.Generate(request, timeout=60))
        check(f"golden greedy {prompt['name']}", ids[0] == prompt["greedy_ids"], ids)
        check("finished by length", finished[0].reason == pb.FINISH_REASON_LENGTH, finished)
        check("usage", (usage.prompt_tokens, usage.completion_tokens) == (prompt["tokens"], 32), usage)
    sampling = pb.SamplingOptions(max_tokens=8, temperature=1, seed=3, n=2, ignore_eos=True)
    ids, _, finished, _ = collect(stub.Generate(pb.GenerateRequest(model=model, text="that i", sampling=sampling), timeout=60))
    check("two choices", sorted(ids) == [0, 1] and len(finished) == 2 and ids[0] != ids[1], ids)
    chat = pb.ChatRequest(model=model, messages=[pb.Message(role="user", content="that is a test")],
                          sampling=pb.SamplingOptions(max_tokens=8, temperature=0, ignore_eos=True))
    ids, text, _, _ = collect(stub.Chat(chat, timeout=60))
    check("chat", len(ids[0]) == 8 and text[0], text)
    tokens = stub.Tokenize(pb.TokenizeRequest(model=model, text=prompts[0]["text"]), timeout=30)
    check("tokenize", list(tokens.token_ids) == prompts[0]["input_ids"], tokens)
    bad = pb.GenerateRequest(model=model, text="x", sampling=pb.SamplingOptions(temperature=-1))
    refused("negative temperature", grpc.StatusCode.INVALID_ARGUMENT, lambda: stub.Generate(bad, timeout=30), "temperature")
    unknown = pb.GenerateRequest(model="nothing", text="x")
    refused("unknown model", grpc.StatusCode.NOT_FOUND, lambda: stub.Generate(unknown, timeout=30), "nothing")
    empty = pb.GenerateRequest(model=model, token_ids=pb.TokenIds(ids=[]))
    refused("empty prompt", grpc.StatusCode.INVALID_ARGUMENT, lambda: stub.Generate(empty, timeout=30), "prompt")
    print("all passed")


main()
