"""The form of the optimize stage's page: a Jinja2 template, by sections.

Python and not a file beside it, so that it is a part of the stage's digest: another form is another page, not one from the cache.
"""

from __future__ import annotations

_MACROS = """
{% macro cell(each, kind="") %}
<td class="{{ kind }} {{ each.mark }}">{% if each.value is none %}{{ each.text }}{% else %}<data value="{{ each.value }}">
{{- each.text }}</data>{% endif %}</td>
{% endmacro %}
{% macro badge(mark, words) %}<span class="badge {{ mark }}">{{ words }}</span>{% endmacro %}
{% macro words(names) %}{{ names | join(", ") if names else "—" }}{% endmacro %}
"""

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ "No variant passes" if refusal else report.chosen ~ " is shipped" }} — small forms of a model</title>
<style>{{ style | safe }}</style>
</head>
<body>
<header>
<h1>{{ "No small form of the model passes the gates" if refusal else report.chosen ~ " is the form that is shipped" }}</h1>
<p class="soft">A trained TensorFlow model was turned into {{ made | length }} TFLite
{{ "file" if made | length == 1 else "files, each made in another way" }}: the form that phones and small devices run.
{{ "It was" if made | length == 1 else "Each was" }} measured on the same {{ report.float_model.eval_examples | count }}
examples and held against gates.</p>
{% set compared = best.measured.comparison %}
<div class="verdict {{ "no" if refusal }}">
<p>{% if refusal %}
<b>Nothing is shipped:</b> {{ made | length }} of {{ report.rows | length }} variants could be made, and the gates refused
{{ "it" if made | length == 1 else "each of them" }}. The best of them, {{ rule }}, is <b>{{ report.chosen }}</b>:
{% else %}
<b>{{ report.chosen }}</b> is {{ rule }} of the {{ passing | length }} that
{{ "passes" if passing | length == 1 else "pass" }} all gates, of {{ report.rows | length }} asked for:
{% endif %}
{{ best.bytes | count }} bytes ({{ best.gzip_bytes | count }} compressed), {{ "%.2f" | format(best.ratio) }} of {{ reference }};
accuracy {{ compared.accuracy_tflite | fraction }}, the float model's {{ compared.accuracy_float | fraction }}.</p>
{% if refusal %}
<ul>
{% for reason in refusal.reasons %}<li>{{ reason }}</li>
{% endfor %}
</ul>
{% endif %}
</div>
<div class="tiles">
<div class="tile"><b>{{ best.bytes | size }}</b><span>file, {{ "%.2f" | format(best.ratio) }} of {{ reference }}</span></div>
<div class="tile"><b>{{ best.gzip_bytes | size }}</b><span>compressed with gzip</span></div>
<div class="tile"><b>{{ compared.accuracy_tflite | fraction }}</b><span>accuracy,
{% if compared.accuracy_drop > 0 %}{{ compared.accuracy_drop | fraction }} below{% elif compared.accuracy_drop < 0 -%}
{{ (-compared.accuracy_drop) | fraction }} above{% else %}the same as{% endif %} the float model's</span></div>
<div class="tile"><b>{{ best.measured.latency.p50_ms | time }}</b><span>median of {{ best.measured.latency.calls | count }}
calls, one thread</span></div>
<div class="tile"><b>{{ best.measured.arena_bytes | size }}</b><span>memory while it runs</span></div>
</div>
<nav><a href="#gates">Gates</a><a href="#variants">All variants</a>{% if plot %}<a href="#picture">Picture</a>{% endif %}
<a href="#techniques">What each is</a><a href="#graph">Freezing and folding</a><a href="#groups">Slices and labels</a>
{% if tuned %}<a href="#tuned">Fine-tuning</a>{% endif %}<a href="#weights">Weights</a>
<a href="#file">{{ "The nearest" if refusal else "The chosen" }} file</a>
<a href="#digests">Digests</a></nav>
</header>
"""

_VARIANTS = """
<h2 id="gates">Gates</h2>
<p class="soft">What a variant has to keep to, or it is not shipped.</p>
<div class="scroll"><table>
<thead><tr><th>gate</th><th class="text">limit</th><th class="text">{{ report.chosen }} has</th><th class="text">kept</th>
<th class="text">refused by it</th></tr></thead>
<tbody>
{% for gate in gates %}
<tr><th>{{ gate.what }}</th><td class="text">{{ gate.limit }}</td><td class="text">{{ gate.measured }}</td>
<td class="text">{{ badge("passes" if gate.kept else "refused", "yes" if gate.kept else "no") }}</td>
<td class="text wrap">{{ words(gate.refused) }}</td></tr>
{% endfor %}
</tbody></table></div>

<h2 id="variants">All variants</h2>
<div class="scroll variants"><table>
<thead>
<tr><th></th><th class="over-head" colspan="4">size</th><th class="over-head" colspan="3">answers</th>
<th class="over-head" colspan="2">outputs differ by</th><th class="over-head" colspan="2">ms a call</th>
<th class="over-head">memory</th><th class="over-head">graph</th><th class="over-head" colspan="2">weights</th></tr>
<tr><th>variant</th><th class="first-head">bytes</th><th>gzip</th><th>ratio</th><th>to weights</th>
<th class="first-head">accuracy</th><th>drop</th><th>agree</th><th class="first-head">RMS</th><th>largest</th>
<th class="first-head">p50</th><th>p95</th><th class="first-head">arena</th><th class="first-head">ops</th>
<th class="first-head">zeros</th><th>values</th></tr>
</thead>
<tbody>
{% for row, mark, result, cells in rows %}
{% set why = row.reason or row.broken | map(attribute="reason") | join("; ") %}
<tr class="{{ mark }} {{ "open" if why }}"><th>{{ row.name }} {{ badge(mark, result) }}
{%- if settings[row.name] %}<span class="note">{{ settings[row.name] }}</span>{% endif %}</th>
{% for each in cells %}
{{ cell(each, "first" if loop.index0 in (0, 4, 7, 9, 11, 12, 13)) -}}
{% else %}<td colspan="15"></td>
{% endfor %}
</tr>
{% if why %}
<tr class="why {{ mark }}"><td colspan="16"><div>{{ why }}</div></td></tr>
{% endif %}
{% endfor %}
</tbody></table></div>
<details><summary>What the columns mean</summary><dl>
<dt>bytes, gzip</dt><dd>The file as it is, and compressed as an app's download has it.</dd>
<dt>ratio</dt><dd>Bytes divided by those of {{ reference }} ({{ report.float_model.reference_bytes | count }}).</dd>
<dt>to weights</dt><dd>Bytes divided by those of the float model's weights alone
({{ report.float_model.graphs.float_weights_bytes | count }}).</dd>
<dt>accuracy, drop</dt><dd>Share of right answers on the {{ report.float_model.eval_examples | count }} examples of the eval
split, and how much less that is than the float model's; below zero, it is more.</dd>
<dt>agree</dt><dd>Share of the examples on which both give the same answer, right or wrong.</dd>
<dt>outputs differ by</dt><dd>How far the numbers of the output {{ report.output }} are from the float model's: root mean square,
and the largest.</dd>
<dt>p50, p95</dt><dd>Half of the calls, and 95 in 100, took at most so many milliseconds: one thread, one example, warm, on the
machine that made this page.</dd>
<dt>arena</dt><dd>Bytes of memory that the numbers between the layers take at once.</dd>
<dt>ops</dt><dd>Steps of computation in the file.</dd>
<dt>zeros, values</dt><dd>Share of weights that are zero, and the most different values in one layer (in one channel, where each
has a scale of its own), read from the file.</dd>
</dl></details>
{% if plot %}

<h2 id="picture">Size and accuracy</h2>
<figure><div class="scroll" role="img" aria-label="Accuracy over size of each variant; the numbers are in the table above.">
{{ plot | safe }}</div>
<figcaption>Each point is a variant: further left is smaller, further up is more often right. A point that would lie far below is
drawn at the lower edge, with its accuracy.</figcaption></figure>
{% endif %}

<h2 id="techniques">What each technique is</h2>
<div class="scroll"><table>
<thead><tr><th>technique</th><th class="text">what it is</th><th class="text">variants, with their settings</th></tr></thead>
<tbody>
{% for kind in kinds %}
<tr><th>{{ kind }}</th><td class="text wrap">{{ meanings.get(kind, "") }}</td><td class="text wrap">
{%- for row in report.rows if row.kind == kind %}{{ row.name }}{% if settings[row.name] %} ({{ settings[row.name] }}){% endif %}
{{- "; " if not loop.last }}{% endfor %}</td></tr>
{% endfor %}
</tbody></table></div>
"""

_GRAPH = """
<h2 id="graph">Freezing and folding</h2>
<p class="soft">How the model's graph became a file: from one that is trained to one that only answers. Counts are of the
signature {{ report.signature }} and all functions that it calls
{{- ", without the transform, which is not part of the file" if report.features == "transformed" }}.</p>
<div class="flow">
{% for step in steps %}
<div><h3>{{ loop.index }}. {{ step.title }}</h3><table>
{% for name in ("ops", "constants", "variables", "variable reads") %}
<tr><th>{{ name }}</th><td>{{ step.numbers[loop.index0] | count }}</td></tr>
{% endfor %}
</table><p>{{ step.did }}</p></div>
{% endfor %}
</div>
<details><summary>Every op, side by side</summary><div class="scroll"><table>
<thead><tr>{% for name in graphs.columns %}<th>{{ name.replace("_", " ") }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in graphs.rows %}
<tr><th>{{ row[0] }}</th>{% for each in row[1:] %}<td>{{ each or "·" }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div></details>

<h2 id="groups">Accuracy by slice and by label</h2>
<p class="soft key">A small loss on all examples can be a large one on a few. Against the float model:
<span class="gain">better</span><span class="loss1">up to 0.03 worse</span><span class="loss2">up to 0.1</span>
<span class="loss3">more</span><span class="over">refused by the slice's gate</span></p>
{% for group in groups if group.rows %}
<h3>By {{ group.title }}</h3>
<div class="scroll groups"><table>
<thead><tr><th>{{ group.title }}</th><th>examples</th><th>float model</th>{% for name in group.names %}<th>{{ name }}</th>
{%- endfor %}</tr></thead>
<tbody>
{% for name, gate, cells in group.rows %}
<tr><th>{{ name }}{% if gate %} {{ badge("chosen", gate) }}{% endif %}</th>
{% for each in cells %}
{{ cell(each) -}}
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
"""

_WEIGHTS = """
{% if tuned %}
<h2 id="tuned">Fine-tuning</h2>
<p class="soft">These were trained on from the float model's weights, one technique after the other, before they were converted.
The losses are of the training data, one an epoch.</p>
<div class="scroll"><table>
<thead><tr><th>variant</th><th class="text">technique</th><th>epochs</th><th class="text">loss after each epoch</th>
<th>learning rate</th><th class="text">strategy</th><th>seconds</th><th class="text">layers left out</th></tr></thead>
<tbody>
{% for row, each in tuned %}
{% for technique, losses in each.losses.items() %}
<tr><th>{{ row.name if loop.first }}</th><td class="text">{{ technique }}</td><td>{{ losses | length }}</td><td class="text">
{%- for loss in losses %}<data value="{{ loss }}">{{ loss | short }}</data>{{ " → " if not loop.last }}{% endfor %}</td>
{% if loop.first %}
<td>{{ "%g" | format(each.learning_rate) }}</td>
<td class="text">{{ each.strategy }}{{ " x " ~ each.replicas if each.replicas > 1 }}</td>
<td>{{ "%.1f" | format(each.seconds) }}</td>
{% else %}<td></td><td></td><td></td>
{% endif %}
<td class="text wrap">{{ words(each.left_out.get(technique, ())) }}</td></tr>
{% endfor %}
{% endfor %}
</tbody></table></div>
{% endif %}

<h2 id="weights">Weights, as they are in the files</h2>
<p class="soft">What pruning and clustering left was read from each file, not taken on trust.</p>
<details{{ " open" if kernels | length == 1 }}><summary>Every kernel of every variant</summary><div class="scroll"><table>
<thead><tr><th>variant</th><th class="text">tensor</th><th class="text">shape</th><th class="text">type</th><th>zeros</th>
<th>values</th></tr></thead>
<tbody>
{% for row, found in kernels %}
{% for each in found.kernels %}
<tr><th>{{ row.name if loop.first }}</th><td class="text">{{ each.tensor }}</td>
<td class="text">{{ each.shape | join(" x ") }}</td>
<td class="text">{{ each.dtype }}</td><td><data value="{{ each.sparsity }}">{{ each.sparsity | percent }}</data></td>
<td>{{ "> 1,024" if each.clusters is none else each.clusters | count }}</td></tr>
{% endfor %}
{% endfor %}
</tbody></table></div></details>
"""

_FILE = """
<h2 id="file">The {{ "chosen file" if not refusal else "file that came nearest" }}: {{ report.chosen }}</h2>
<p class="soft">A quantized number stands for <code>scale &times; (stored &minus; zero point)</code>.</p>
<div class="scroll"><table>
<thead><tr><th>name</th><th class="text">edge</th><th class="text">shape</th><th class="text">type</th><th>scale</th>
<th>zero point</th></tr></thead>
<tbody>
{% for edge, found in (("input", best.measured.inputs), ("output", best.measured.outputs)) %}
{% for each in found %}
<tr><th>{{ each.name }}</th><td class="text">{{ edge }}</td><td class="text">{{ each.shape | join(" x ") }}</td>
<td class="text">{{ each.dtype }}</td><td>{{ "—" if each.scale is none else each.scale }}</td>
<td>{{ "—" if each.zero_point is none else each.zero_point }}</td></tr>
{% endfor %}
{% endfor %}
</tbody></table></div>
<dl>
<dt>signature</dt><dd><code>{{ report.signature }}</code>, output <code>{{ report.output }}</code></dd>
<dt>features</dt><dd>{% if report.features == "transformed" %}
takes transformed features: the host applies the transform in <code>host_transform</code>, beside the file, first (not inside:
{{ report.why_transformed }})
{%- else %}takes raw features: what comes before the model is inside of the file{% endif %}</dd>
<dt>ops</dt><dd>{% for op, times in best.measured.ops | dictsort %}{{ op }}{{ " x " ~ times if times > 1 }}
{{- ", " if not loop.last }}{% endfor %}</dd>
<dt>float ops left</dt><dd>{{ best.measured.float_ops | join(", ") or "none: every op computes with integers" }}</dd>
<dt>SHA-256</dt><dd><code>{{ best.sha256 }}</code></dd>
</dl>

<h2 id="digests">Every file</h2>
<div class="scroll"><table>
<thead><tr><th>variant</th><th class="text">SHA-256</th><th>conversion, s</th><th>constants</th><th>scales and shifts left</th>
<th class="text">float ops left</th></tr></thead>
<tbody>
{% for row, each in made %}
<tr><th>{{ row.name }}</th><td class="text"><code>{{ each.sha256 }}</code></td>
<td>{{ "%.2f" | format(each.conversion_seconds) }}</td>
<td>{{ each.measured.constants | count }}</td><td>{{ each.scales_and_shifts_left }}</td>
<td class="text wrap">{{ words(each.measured.float_ops) }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="soft small">“Scales and shifts left” are multiplications and additions that a batch normalization left behind; 0
says that all were folded into the weights.</p>
<h3>The float model</h3>
<dl>
<dt>SavedModel</dt><dd>{{ report.float_model.saved_model_bytes | count }} bytes: saved_model.pb
{{ report.float_model.saved_model_pb_bytes | count }}, variables {{ report.float_model.variables_bytes | count }}</dd>
{% if report.float_model.accuracy is not none %}
<dt>accuracy</dt><dd>{{ report.float_model.accuracy | fraction }} on {{ report.float_model.eval_examples | count }} examples</dd>
{% endif %}
<dt>representative data</dt><dd>{{ report.representative_examples | count }} training examples, drawn with seed {{ report.seed }},
from which the converter takes the ranges of the numbers</dd>
</dl>
</body>
</html>"""

TEMPLATE = _MACROS + _HEAD + _VARIANTS + _GRAPH + _WEIGHTS + _FILE
