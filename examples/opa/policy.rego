# A hook service that is nothing but this policy: Open Policy Agent answers mproxy's questions itself. Each rule here has the
# name of a call of the contract (proto/events.proto); `input` is the question, and the rule's value is the answer.
package mproxy

# Which questions there are. What is not wanted here is allowed without asking.
Hello := {"name": "opa", "wants": [
	{"hook": "HOOK_AUTH_CONNECT"},
	{"hook": "HOOK_AUTH_PUBLISH"},
	{"hook": "HOOK_AUTH_SUBSCRIBE"},
]}

# A name with these would be more than one level of a topic, or match the topics of others.
odd_client_id if regex.match(`[/+#]`, input.client.clientId)

AuthConnect := {"deny": {"reasonString": "you may not come in"}} if {
	input.client.username in data.access.refused_users
} else := {"deny": {"reasonCode": 133}} if {
	odd_client_id
} else := {"allow": {"grant": grant}} if {
	some grant in [data.access.grants[input.client.username]]
} else := {"allow": {}}

AuthPublish := {"deny": {"reasonString": "nobody publishes here"}} if {
	startswith(input.topic, "forbidden/")
} else := {"allow": {"topic": concat("", ["new/", trim_prefix(input.topic, "old/")])}} if {
	startswith(input.topic, "old/")
} else := {"allow": {}}

# One verdict for each filter, in their order.
AuthSubscribe := {"verdicts": [verdict | some asked in input.filters; verdict := judge(asked.filter)]}

# What a filter matches counts: "+" and "#" also match secret topics.
judge(filter) := {"deny": {"reasonString": "this would show what is secret"}} if {
	split(filter, "/")[0] in {"secret", "+", "#"}
} else := {"allow": {}}
