"""What a program with the official client of OpenAI does with a response in the background whose stream it loses.

Arguments: the base URL; `start`, or `resume` with the response, the number of the last event and a file to remove when the answer begins again.
"""

import json
import os
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="any")

if sys.argv[2] == "start":
    stream = client.responses.create(model="agent", input="one two three", background=True, stream=True)
    for event in stream:
        if event.type == "response.created":
            response = event.response.id
        if event.type == "response.output_text.delta":
            assert event.delta == "one", event
            print(json.dumps([response, event.sequence_number]))
            sys.exit()
    raise AssertionError("the stream ended")

_, _, _, response, last, held = sys.argv
last = int(last)
events = []
for event in client.responses.retrieve(response, stream=True, starting_after=last):
    events.append(event)
    if event.type == "response.output_text.delta" and os.path.exists(held):
        os.remove(held)
numbers = [event.sequence_number for event in events]
assert numbers == list(range(last + 1, last + 1 + len(events))), numbers
ended = [event.item for event in events if event.type == "response.output_item.done"]
assert [item.status for item in ended] == ["incomplete", "completed"], ended
assert [item.content[0].text for item in ended] == ["one", "one two three"], ended
final = events[-1].response
assert events[-1].type == "response.completed" and final.output_text == "one two three", final
assert client.responses.retrieve(response).output_text == "one two three"

# Every reader gets the same events, wherever it begins, and nothing after the last one.
whole = list(client.responses.retrieve(response, stream=True))
assert [event.sequence_number for event in whole] == list(range(numbers[-1] + 1)), whole
assert whole[0].type == "response.created" and whole[last + 1 :] == events, whole
assert list(client.responses.retrieve(response, stream=True, starting_after=numbers[-1])) == []
