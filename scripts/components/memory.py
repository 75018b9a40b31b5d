"""How much memory training and evaluation take of a device at their peak, by arithmetic, before anything is there.

Bytes of tensors; what the allocator loses between them, and what libraries take, is not in them. Counted for a Llama:
where an architecture has less (no gate, an adapter on some of its modules alone), for such a part as if it were there.
Attention is that of a kernel which keeps no scores.
"""

from dataclasses import dataclass

from scripts.components.shape import Shape

MASTER_BYTES = 4
"""Of a weight that is trained, its gradient and each number of its optimizer's state; of the residual stream too."""
NF4_BYTES = 0.516
"""Of a weight in 4 bits: the scale of 64 has 8 bits, that of 256 scales 32 (arXiv 2305.14314, section 3)."""
PASS_TOKENS = 4096
"""Tokens of one forward and backward pass, if a row is not longer."""
GPU_PASS_TOKENS = 8192
"""Of a GPU: fewer leave its multiplications too small, more need more memory."""
CHUNK_LOGITS = 2**27
"""Logits of a loss that are in memory at once."""
LOGITS_AT_ONCE = 2**25
"""Of likelihoods: 1,024 positions of Llama-2's vocabulary. More make no product faster."""
JOINING = 8
"""Texts join those that are written when one in so many places is free: prompts read together take less time."""
READ_AT_ONCE = 8
"""Prompts, where fewer places are waited for."""
SCORE_BYTES = 20
"""Of a logit that is scored: itself, what scaling or capping makes of it, and in fp32 itself and its logarithm."""
SAMPLE_BYTES = 40
"""Of a logit that is sampled from: itself, in fp32 with its probability, and those sorted, with 8 bytes of index."""
LOSS_BYTES = 12
"""Of a logit of a loss: its logarithm in fp32, the gradient by that, and the gradient by the logit."""


def written_bytes(shape: Shape, prompt: int, length: int) -> int:
    """Of a row of `length` tokens in all, that begins with a prompt of `prompt` tokens."""
    kept = length * (shape.cache_bytes + shape.growth_bytes)
    return kept + _passed(shape, prompt, prompt) + SAMPLE_BYTES * shape.vocab_size


def scored_bytes(shape: Shape, length: int, kept: int = 0) -> int:
    """Of a sequence of `length` tokens whose likelihoods are asked for; the first `kept` are read once for several.

    Its logits are not in it: see `scored_logits_bytes`.
    """
    cached = (length * (shape.cache_bytes + shape.growth_bytes)) if kept else 0
    return cached + _passed(shape, max(kept, length - kept), length) + length * shape.hidden_size * shape.item_bytes


def scored_logits_bytes(shape: Shape) -> int:
    """Of logits that are scored, of all sequences: `LOGITS_AT_ONCE`, or those of one position."""
    return max(LOGITS_AT_ONCE, shape.vocab_size) * SCORE_BYTES


def _passed(shape: Shape, tokens: int, length: int) -> int:
    """Of tokens that pass the layers at once, each with a mask over `length` others (a bit, and as it is added)."""
    return tokens * (shape.pass_bytes + length * (1 + shape.item_bytes))


def evaluated_bytes(shape: Shape, parameters: int, rows: int, length: int, new: int = 0) -> int:
    """Of a model with what goes through it together: `rows` sequences of `length` tokens.

    Their likelihoods are asked for or, with `new`, they are written: so many tokens behind a prompt. The functions
    above plan with what any architecture takes at most, this one has what a Llama takes.
    """
    item = shape.item_bytes
    passing = max(4 * shape.hidden_size + 3 * shape.intermediate_size, 8 * shape.hidden_size) * item
    if not new:
        hidden = 2 * rows * length * shape.hidden_size * item
        logits = min(rows * length, max(1, LOGITS_AT_ONCE // shape.vocab_size)) * shape.vocab_size
        return parameters * item + max(rows * length * passing, hidden + (8 + item) * logits)
    prompt = length - new
    read = min(rows, max(READ_AT_ONCE, rows // JOINING)) * prompt * (passing + prompt * (1 + item) + shape.cache_bytes)
    copied = shape.growth_bytes if shape.num_key_value_heads < shape.num_attention_heads else 0
    step = rows * (length * copied + SAMPLE_BYTES * shape.vocab_size)
    return parameters * item + rows * length * shape.cache_bytes + max(read, step)


def pass_tokens(gpu: bool, rows: int, length: int) -> int:
    """Tokens of a training pass of a process that has `rows` rows of `length` tokens: whole rows, at least one."""
    most = GPU_PASS_TOKENS if gpu else PASS_TOKENS
    return min(rows, max(1, most // length)) * length


@dataclass(frozen=True)
class Training:
    """What the memory of one process of a training job depends on.

    Attributes:
        shape: of the model; its `item_bytes` are those of the numbers that it computes in.
        parameters: of the base model.
        trained: how many parameters are trained.
        adapter: whether they stand beside a base model that is frozen.
        states: how many numbers the optimizer keeps for each.
        rows: of a batch that the process trains.
        length: of a row, in tokens.
        gpu: whether it has a GPU, where frozen weights are kept in the type that is computed in, layers are compiled,
            and as many as must keep their input alone.
        processes: that train together.
        shards: of them, how many have a whole model's weights together (FSDP2); 1: each has all.
        quantized: whether the frozen weights are in 4 bits.
    """

    shape: Shape
    parameters: int
    trained: int
    adapter: bool
    states: int
    rows: int
    length: int
    gpu: bool
    processes: int = 1
    shards: int = 1
    quantized: bool = False

    @property
    def peak(self) -> int:
        """The most bytes at once: on a GPU with every layer checkpointed, as training does where it must."""
        return self.peak_of(checkpointed=self.gpu)

    def peak_of(self, *, checkpointed: bool) -> int:
        """The same where every layer keeps its input alone for the backward pass, or none does."""
        shape, item, tokens = self.shape, self.shape.item_bytes, pass_tokens(self.gpu, self.rows, self.length)
        stream = MASTER_BYTES * shape.hidden_size * tokens
        logits = min(tokens, max(1, CHUNK_LOGITS // shape.vocab_size)) * shape.vocab_size
        halves = item < MASTER_BYTES
        layer = tokens * self._layer_bytes + self._cast_bytes
        layers = shape.num_hidden_layers * (stream if checkpointed else layer)
        # and what is before and behind them: the embedding, the last norm's, the scored positions'
        kept = layers + stream * (3 - self.adapter) + halves * item * shape.hidden_size * tokens + self._gathered
        gradients = MASTER_BYTES * self.trained // self.shards
        before = gradients * (self.rows * self.length > tokens)  # those of a step's passes before
        head = 0 if self.adapter else self._head_parameters
        cast = halves * item * head
        # each chunk of logits has a gradient of the output layer, beside that of the chunks before
        chunks = 2 if tokens * shape.vocab_size > logits else 1
        at_loss = before + kept + cast + stream + LOSS_BYTES * logits
        at_head = before + kept + 2 * cast + chunks * MASTER_BYTES * head + (MASTER_BYTES + item) * logits
        inside = stream + layer + tokens * self._backward_bytes
        if self.shards > 1:  # a layer's gradients are summed while the next one computes, the others' at the end
            inside += self._gathered + MASTER_BYTES * (self._layer_parameters + head)
        of_head = 0 if self.shards > 1 else MASTER_BYTES * head
        at_last_layer = max(before, of_head) + checkpointed * layers + inside
        of_first = 0 if self.adapter or before else MASTER_BYTES * (head + self._layer_parameters)  # not there yet
        at_first_layer = gradients - of_first // self.shards + inside
        # what FSDP2 sums last, in full: the weights, their gradients, and these once more as they are sent
        of_embedding = 3 * self._root_bytes if self.shards > 1 else MASTER_BYTES * head * bool(before)
        at_embedding = gradients + stream + of_embedding
        at_step = gradients + MASTER_BYTES * self._largest
        moments = (at_loss, at_head, at_last_layer, at_first_layer, at_embedding, at_step)
        return self.kept_bytes + max(*moments, self._agreement_bytes(checkpointed=checkpointed))

    def _agreement_bytes(self, *, checkpointed: bool) -> int:
        """Of transformers' own loss of one row, with which training is compared before it begins: of all logits."""
        stream = MASTER_BYTES * self.shape.hidden_size * self.length
        layer = (stream if checkpointed else self.length * self._layer_bytes) + self._cast_bytes
        outside = stream * (3 - self.adapter) + self._gathered + LOSS_BYTES * self.length * self.shape.vocab_size
        return self.shape.num_hidden_layers * layer + outside

    @property
    def kept_bytes(self) -> int:
        """Of what stays from step to step: weights and the optimizer's state."""
        state = MASTER_BYTES * self.states * self.trained
        if not self.adapter:
            return (MASTER_BYTES * self.parameters + state) // self.shards
        buckets = MASTER_BYTES * self.trained * (self.processes > 1)  # of gradients that are summed (DDP)
        mlp = 3 * self.shape.hidden_size * self.shape.intermediate_size
        # norms and embeddings stay in fp32, and so do experts, which lie in one tensor
        linear = self._linear_parameters - (mlp if self._layer_parameters > self._linear_parameters + mlp else 0)
        linear = self.shape.num_hidden_layers * min(linear, self._layer_parameters)
        head = self._outside_parameters - self._head_parameters
        halved = self.shape.item_bytes if self.gpu else MASTER_BYTES
        frozen = int((NF4_BYTES if self.quantized else halved) * linear) + halved * head
        return frozen + MASTER_BYTES * (self.parameters - linear - head + self.trained) + state + buckets

    @property
    def _head_parameters(self) -> int:
        """Of the output layer; of the embedding as many."""
        return self.shape.vocab_size * self.shape.hidden_size

    @property
    def _linear_parameters(self) -> int:
        """Of the linear modules of a layer, as far as a token passes them."""
        shape = self.shape
        queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        return shape.hidden_size * (2 * queries + 2 * keys + 3 * shape.intermediate_size)

    @property
    def _outside_parameters(self) -> int:
        """Of the embedding and, where it has parameters of its own, the output layer."""
        rest = self.parameters - self.shape.num_hidden_layers * self._linear_parameters
        return self._head_parameters * (2 if rest >= 2 * self._head_parameters else 1)

    @property
    def _layer_parameters(self) -> int:
        return (self.parameters - self._outside_parameters) // self.shape.num_hidden_layers

    @property
    def _root_bytes(self) -> int:
        """Of what stands outside of layers, all of which each process has of a sharded model while it computes."""
        return MASTER_BYTES * self._outside_parameters

    @property
    def _gathered(self) -> int:
        """Of a sharded model's parts that a process has whole: a layer, as it comes and as it is multiplied."""
        return self._root_bytes + 2 * self.shape.item_bytes * self._layer_parameters if self.shards > 1 else 0

    @property
    def _cast_bytes(self) -> int:
        """Of the weights of a layer as autocast multiplies them, where they are not gathered so."""
        item = self.shape.item_bytes
        return 0 if self.adapter or item == MASTER_BYTES or self.shards > 1 else item * self._layer_parameters

    @property
    def _layer_bytes(self) -> int:
        """Of a token, what a layer keeps for the backward pass."""
        shape, item = self.shape, self.shape.item_bytes
        queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        stream = MASTER_BYTES * shape.hidden_size
        # before and behind attention; what the norms make of it, where their weights are trained
        kept = stream * (2 if self.adapter else 4)
        # what linear modules read: each of them a copy, where that is of another type than the norm's
        kept += item * shape.hidden_size * (2 if item == MASTER_BYTES else 5)
        kept += 2 * item * (queries + keys) + 4 * shape.num_attention_heads
        kept += 4 * item * shape.intermediate_size
        return kept + (item * self.trained // (2 * shape.num_hidden_layers * shape.hidden_size) if self.adapter else 0)

    @property
    def _backward_bytes(self) -> int:
        """Of a token, what the backward pass of a layer has at once besides: in its MLP."""
        shape, item = self.shape, self.shape.item_bytes
        return (MASTER_BYTES + item) * shape.hidden_size + 2 * item * shape.intermediate_size

    @property
    def _largest(self) -> int:
        """Parameters of the largest tensor that is trained: an optimizer has one of its size besides."""
        shape = self.shape
        if self.adapter:
            return self.trained // shape.num_hidden_layers
        return max(shape.vocab_size, shape.intermediate_size) * shape.hidden_size // self.shards
