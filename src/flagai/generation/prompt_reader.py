"""How prompts come into the cache: many in one call, a long one in parts."""

from collections.abc import Sequence

from flagai.families.family import DecodingProtocol
from flagai.generation.forward import PromptTokens, tokens_to_read
from flagai.generation.protocol import GenerativeModel, decoding_of
from flagai.generation.replay.steps import Steps
from flagai.generation.request import Running


class PromptReader:
    """Reads prompts.

    Args:
        model: the model.
        most: tokens of a part of a long prompt.
    """

    def __init__(self, model: GenerativeModel, most: int) -> None:
        self._model = model
        self._most = most
        self.unfinished: Running | None = None  # a text of which a part has been read

    def read(self, texts: Sequence[Running], steps: Steps) -> None:
        """Read whole prompts."""
        by_protocol: dict[DecodingProtocol, list[tuple[Running, int]]] = {}
        for text in texts:
            own = by_protocol.setdefault(decoding_of(self._model, text.request.prompt), [])
            own.append((text, tokens_to_read(self._model, text.request)))
        for protocol, parts in by_protocol.items():
            self._read(protocol, parts, steps)

    def read_part(self, text: Running, steps: Steps) -> bool:
        """Read the next tokens of a long prompt; whether they were the last ones."""
        last = tokens_to_read(self._model, text.request)
        end = min(text.num_read + self._most, last)
        self._read(decoding_of(self._model, text.request.prompt), [(text, end)], steps)
        self.unfinished = None if end == last else text
        return end == last

    def _read(self, protocol: DecodingProtocol, parts: Sequence[tuple[Running, int]], steps: Steps) -> None:
        prompts = PromptTokens.of(parts)
        if prompts.tokens.size:
            steps.read(self._model, protocol, prompts)
