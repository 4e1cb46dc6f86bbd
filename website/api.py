"""The pages of the API reference: what users of the library call, by subject."""

# Page -> its title and the modules whose public objects it documents, as far as they are defined there.
PAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "load": ("Load models and tasks", ("loading", "listing", "pipelines", "auto_model.auto_loader")),
    "predictor": ("Predictor", ("model.predictor.predictor", "model.predictor.embedder", "model.predictor.results")),
    "models": (
        "Models",
        (
            "model.base_model",
            "model.adapters",
            "model.glm_model",
            "model.bert_model",
            "model.gpt2_model",
            "model.t5_model",
            "model.chatglm_model",
            "model.chatglm2_model",
        ),
    ),
    "configurations": ("Configuration classes", ("model.config", "model.config_fields")),
    "tokenizer": ("Tokenizers", ("data.tokenizer.tokenizer", "data.tokenizer.encoding", "data.tokenizer.flagai_names")),
    "generation": (
        "Text generation",
        (
            "generation.engine",
            "generation.options",
            "generation.types",
            "generation.request",
            "generation.scheduler",
            "generation.protocol",
            "data.prompt",
        ),
    ),
    "chat": ("Chat", ("chat.choosing", "chat.format", "chat.messages")),
    "training": (
        "Fine-tuning",
        ("train.finetune", "train.recipe", "train.metrics", "evaluation.evaluate", "evaluation.results"),
    ),
    "catalog": ("Catalog", ("catalog.catalog", "catalog.card", "catalog.packages", "catalog.tasks")),
    "downloads": ("Downloads", ("hub.store", "hub.policy")),
    "checkpoints": ("Checkpoints", ("checkpoint.reader", "convert", "doctor")),
    "export": ("Export", ("export.onnx_folder",)),
    "parallel": ("Many devices", ("parallel.world", "parallel.plan", "parallel.fsdp")),
    "families": ("Families", ("families.family",)),
    "errors": ("Errors", ("errors", "settings")),
}


def page(name: str) -> str:
    """The Markdown of a page."""
    title, modules = PAGES[name]
    parts = (f"## flagai.{module}\n\n::: flagai.{module}\n" for module in modules)
    return f"# {title}\n\n" + "\n".join(parts)
