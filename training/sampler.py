"""The plain sampler of Dream and DiffuCoder (arXiv 2506.20639, section 3), many canvases at once.

Entropy order, alg_temp 0. Canvases may differ in length: shorter ones are padded on the right and the padding is
hidden from attention. On a GPU generation runs in bf16 autocast, so a figure may move by a sample between machines.
"""
import torch


def top_p_filter(logits, p, most=128):
    """Keep the most likely tokens up to and including the one that crosses p. Few rows need more than `most` tokens
    for that, and only those are sorted as a whole."""
    if most < logits.shape[-1]:
        value, index = logits.topk(most)
        mass = (value - logits.logsumexp(-1, keepdim=True)).exp()
        over = mass.cumsum(-1) > p
        kept = ~torch.cat((torch.zeros_like(over[..., :1]), over[..., :-1]), -1)
        out = torch.full_like(logits, -torch.inf).scatter(-1, index, value.masked_fill(~kept, -torch.inf))
        wide = ~over[..., -1]
        if wide.any():
            out[wide] = top_p_filter(logits[wide], p, logits.shape[-1])
        return out
    ordered, index = logits.sort(descending=True)
    over = ordered.softmax(-1).cumsum(-1) > p
    over = torch.cat((torch.zeros_like(over[..., :1]), over[..., :-1]), -1)
    return logits.masked_fill(torch.zeros_like(over).scatter(-1, index, over), -torch.inf)


@torch.no_grad()
def fill(net, canvases, steps, temperature=0.2, top_p=0.95, eps=1e-3, seed=0, remask=0):
    """Fill the masks of each canvas (a list of ids) in `steps` steps. Returns the canvases, and for each the mean
    log probability, before temperature, of the tokens as they were revealed. With `remask`, each token before the
    first end of text is then masked by itself and predicted again, so many times, as `src/diffusion/remasking.rs` does."""
    device = net.model.embed_tokens.weight.device
    mask, eot = net.config["mask_token_id"], net.config["eos_token_id"]
    rng = torch.Generator(device).manual_seed(seed)
    width = max(map(len, canvases))
    sizes = torch.tensor([len(c) for c in canvases], device=device)
    x = torch.tensor([list(c) + [0] * (width - len(c)) for c in canvases], device=device)  # [B, L]
    keep = torch.arange(width, device=device)[None] < sizes[:, None]
    equal = bool(keep.all())
    holes = (x == mask) & keep
    total = holes.sum(1).clamp(min=1)
    score = torch.zeros(len(canvases), device=device)
    when = torch.zeros_like(x)  # step of each reveal
    times = torch.linspace(1, eps, steps + 1)

    def propose(flat):
        """Token, log probabilities and confidence at each of these positions."""
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = net.logits_at(net.model(x, keep=None if equal else keep), flat)
        logits = logits.float()
        logits[:, mask] = -torch.inf  # a mask is never a candidate
        plain = logits.log_softmax(-1)
        if temperature > 0:
            probs = top_p_filter(logits / temperature, top_p).softmax(-1)
            token = torch.multinomial(probs, 1, generator=rng)[:, 0]
        else:
            probs = plain.exp()
            token = probs.argmax(-1)
        return token, plain, (probs * torch.log(probs + 1e-10)).sum(-1)  # negative entropy

    for i in range(steps):
        masked = (x == mask) & keep
        left = masked.sum(1)
        if int(left.max()) == 0:
            break
        reveal = (left * float(1 - times[i + 1] / times[i])).int() if i < steps - 1 else left
        if int(reveal.max()) == 0:
            continue
        flat = masked.flatten().nonzero()[:, 0]
        token, plain, sure = propose(flat)
        confidence = torch.full(x.shape, -torch.inf, device=device)
        confidence.view(-1)[flat] = sure
        rank = torch.argsort(confidence, dim=1, descending=True, stable=True).argsort(1)
        chosen = masked & (rank < reveal[:, None])
        picked = chosen.flatten()[flat]
        x.view(-1)[flat[picked]] = token[picked]
        when[chosen] = i
        score.index_add_(0, flat[picked] // width, plain.gather(1, token[:, None])[:, 0][picked])

    for n in range(remask):
        orders = []
        for row in range(len(canvases)):
            places = holes[row].nonzero()[:, 0].tolist()
            ends = [i for i, place in enumerate(places) if x[row, place] == eot]
            orders.append(sorted(places[:ends[0]] if ends else places, key=lambda place: int(when[row, place])))
        for i in range(max(map(len, orders))):
            rows = [row for row, order in enumerate(orders) if len(order) > i]
            flat = torch.tensor([row * width + orders[row][i] for row in rows], device=device)
            x.view(-1)[flat] = mask
            x.view(-1)[flat] = propose(flat)[0]
            when.view(-1)[flat] = steps + n * width + i
    return [row[:n].tolist() for row, n in zip(x, sizes.tolist())], (score / total).tolist()


def in_batches(net, canvases, steps, batch=25, seed=0, **options):
    """`fill` on canvases of like length together; the order of the results is that of the canvases."""
    order = sorted(range(len(canvases)), key=lambda i: len(canvases[i]))
    out = [None] * len(canvases)
    for n in range(0, len(order), batch):
        part = order[n:n + batch]
        done, score = fill(net, [canvases[i] for i in part], steps, seed=seed + n, **options)
        for i, ids, s in zip(part, done, score):
            out[i] = (ids, s)
    return out
